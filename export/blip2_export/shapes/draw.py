"""Draws scenes that training has never seen, with questions about them, as a cases file for `verify`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from blip2_export.shapes.questions import caption_exchange, chat_exchange, question_exchange
from blip2_export.shapes.scenes import HELD_OUT, draw_scene

if TYPE_CHECKING:
    from pathlib import Path

    from blip2_export.shapes.questions import Exchange
    from blip2_export.shapes.scenes import Scene

FIRST_SCENE = 300_000
"""Held-out scenes that neither the check of the training nor `evaluate-shapes` uses."""

QUESTIONS = 3
CASES = "cases.json"


def draw_cases(folder: Path, scenes: int) -> int:
    """Writes the images and cases.json into a folder, and returns the number of cases."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for index in range(FIRST_SCENE, FIRST_SCENE + scenes):
        scene = draw_scene(HELD_OUT, index)
        image = f"scene-{index}.png"
        scene.image().save(folder / image, optimize=True)
        for number, exchange in enumerate(_exchanges(scene, index)):
            name = f"scene-{index}-{number}-{exchange.kind}"
            cases.append({"name": name, "image": image, "text": exchange.prompt})
    text = json.dumps({"cases": cases}, indent=1) + "\n"
    (folder / CASES).write_text(text, encoding="utf-8")
    return len(cases)


def _exchanges(scene: Scene, index: int) -> list[Exchange]:
    rng = np.random.default_rng([HELD_OUT, index, 3])
    asked = [question_exchange(scene, rng) for _ in range(QUESTIONS)]
    return [caption_exchange(scene), *asked, chat_exchange(scene, rng, 1)]
