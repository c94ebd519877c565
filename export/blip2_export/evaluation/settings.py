"""Defines the prompt template and generation parameters, with two published settings as presets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from blip2_export.errors import ExportError

Json = dict[str, Any]

PLACE = "{}"
"""Where a template takes the question."""

_LAVIS_DROPS = re.compile(r"[.!\"()*#:;~]")
_LAVIS_WORDS = 50


@dataclass(frozen=True)
class Settings:
    """The template and the generation parameters of every row; the server decides on absent parameters."""

    template: str
    params: Json = field(default_factory=dict)
    lavis_questions: bool = False
    """Questions are rewritten as LAVIS' text processor does: lower case, without some punctuation, at most 50 words."""

    def prompt(self, question: str) -> str:
        """Returns the text of a row. A template without a place for the question is the text itself."""
        if self.lavis_questions:
            words = _LAVIS_DROPS.sub("", question.lower()).rstrip(" ").split(" ")
            question = " ".join(words[:_LAVIS_WORDS])
        return self.template.replace(PLACE, question)

    def record(self) -> Json:
        """Returns the entries for the header of the answers."""
        return {"template": self.template, "lavis_questions": self.lavis_questions, "params": self.params}


DEFAULTS = {"vqa": Settings("Question: {} Answer:"), "captions": Settings("")}

# The paper says beams and penalty, not the length; LAVIS' evaluation files say 10.
PRESETS = {
    ("vqa", "paper"): Settings(
        "Question: {} Answer:", {"num_beams": 5, "length_penalty": -1.0, "max_new_tokens": 10, "min_new_tokens": 1}
    ),
    ("vqa", "lavis"): Settings(
        "Question: {} Short answer:",
        {"num_beams": 5, "length_penalty": 0.0, "max_new_tokens": 10, "min_new_tokens": 1},
        lavis_questions=True,
    ),
    ("captions", "lavis"): Settings("", {"num_beams": 5, "max_new_tokens": 30, "min_new_tokens": 8}),
}
PRESET_NAMES = ("paper", "lavis")


def choose_settings(task: str, preset: str | None, template: str | None, params: Json | None) -> Settings:
    """Returns the settings of a task or preset, overridden by the options given; `params` are overridden one by one.

    Raises:
        ExportError: there is no such preset for the task, or the template has no place for the question.
    """
    if preset and (task, preset) not in PRESETS:
        raise ExportError(f"--preset {preset} has no settings for {task}; give --template and --params")
    base = PRESETS[task, preset] if preset else DEFAULTS[task]
    chosen = Settings(
        base.template if template is None else template, base.params | (params or {}), base.lavis_questions
    )
    if (PLACE in chosen.template) != (task == "vqa"):
        state = "has no place" if task == "vqa" else "has a place"
        raise ExportError(f"--template {chosen.template!r} {state} {PLACE} for the question; --task is {task}")
    return chosen
