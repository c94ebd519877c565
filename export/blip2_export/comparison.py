"""Runs the cases through a bundle and through the reference, and gathers the differences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError
from blip2_export.golden import Answer
from blip2_export.metrics import LogitsAgreement, TensorErrors, common_prefix, margin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from blip2_export.cases import Case
    from blip2_export.onnx_blip2 import OnnxBlip2
    from blip2_export.reference import Reference

Json = dict[str, Any]
STAGE_OUTPUTS = ("image_embeds", "query_output", "image_prefix")


@dataclass
class Comparison:
    """The measured differences over all cases."""

    stages: dict[str, TensorErrors] = field(default_factory=lambda: {name: TensorErrors() for name in STAGE_OUTPUTS})
    logits: LogitsAgreement = field(default_factory=LogitsAgreement)
    answers: list[Answer] = field(default_factory=list)
    cases: list[Json] = field(default_factory=list)

    @property
    def greedy_equal(self) -> float:
        """The share of cases with exactly the reference's tokens."""
        return sum(case["equal"] for case in self.cases) / len(self.cases)

    @property
    def token_agreement(self) -> float:
        """The share of the reference's tokens that the bundle gives before its answer parts from it."""
        shared = sum(common_prefix(case["token_ids"], case["reference_token_ids"]) for case in self.cases)
        return shared / sum(len(case["reference_token_ids"]) for case in self.cases)


@dataclass(frozen=True)
class Picture:
    """One picture on both sides: pixel_values are shared, the prefix is the bundle's own."""

    pixel_values: np.ndarray
    image_prefix: np.ndarray


class Comparer:
    """Compares one bundle with one reference."""

    def __init__(self, model: OnnxBlip2, reference: Reference) -> None:
        self.model = model
        self.reference = reference
        self.result = Comparison()
        self._pictures: dict[Path, Picture] = {}

    def run(self, cases: Sequence[Case], progress: Callable[[str], None]) -> Comparison:
        """Runs every case; each picture is encoded once."""
        for number, case in enumerate(cases, 1):
            self._case(case)
            last = self.result.cases[-1]
            progress(f"case {number} of {len(cases)}, {case.name}: {'equal' if last['equal'] else 'different'}")
        return self.result

    def _picture(self, path: Path) -> Picture:
        if path not in self._pictures:
            pixel_values = self.reference.pixel_values(path)
            expected = self.reference.image_stages(pixel_values)
            embeds = self.model.image_embeds(pixel_values)
            output, prefix = self.model.query(embeds)
            for name, actual in zip(STAGE_OUTPUTS, (embeds, output, prefix), strict=True):
                self.result.stages[name].add(actual, getattr(expected, name))
            self._pictures[path] = Picture(pixel_values, prefix)
        return self._pictures[path]

    def _case(self, case: Case) -> None:
        picture, prompt = self._picture(case.image), self.model.prompt_ids(case.text)
        self._check_length(case, picture.image_prefix.shape[1] + len(prompt) + case.max_new_tokens)
        expected = self.reference.greedy(picture.pixel_values, prompt, case.max_new_tokens)
        expected_logits = self.reference.teacher_forced(picture.pixel_values, prompt, expected)
        logits = self.model.teacher_forced(picture.image_prefix, prompt, expected)
        self.result.logits.add(logits, expected_logits)
        tokens = self.model.greedy(picture.image_prefix, prompt, case.max_new_tokens)
        equal = tokens == expected
        text = self.model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        # The two margins are of the same tokens only when the answers are equal; others are never chosen.
        smallest = min(margin(logits), margin(expected_logits))
        self.result.answers.append(Answer(case, prompt, tokens, text, smallest, equal))
        self.result.cases.append(_entry(case, tokens, expected, text, smallest))

    def _check_length(self, case: Case, length: int) -> None:
        limit = self.model.decoder_info["max_positions"]
        if length > limit:
            raise ExportError(
                f"case {case.name}: image, prompt and new tokens take {length} positions, "
                f"the model has {limit}; shorten the text or lower max_new_tokens"
            )


def _entry(case: Case, tokens: list[int], expected: list[int], text: str, smallest_margin: float) -> Json:
    return {
        "name": case.name,
        "image": case.image.name,
        "image_sha256": hashlib.sha256(case.image.read_bytes()).hexdigest(),
        "text": case.text,
        "max_new_tokens": case.max_new_tokens,
        "reference_token_ids": expected,
        "token_ids": tokens,
        "answer": text,
        "equal": tokens == expected,
        "smallest_margin": smallest_margin,
    }
