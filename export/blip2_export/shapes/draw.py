"""`draw-shapes`: writes scenes that training has never seen, and questions about them, as a cases file for `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .questions import caption_exchange, chat_exchange, question_exchange
from .scenes import HELD_OUT, draw_scene

if TYPE_CHECKING:
    import argparse

    from .questions import Exchange
    from .scenes import Scene

FIRST_SCENE = 300_000
"""Held-out scenes that neither the check of the training nor `evaluate-shapes` uses."""

QUESTIONS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `draw-shapes`."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures and cases.json")
    parser.add_argument("--scenes", type=int, default=24, help="number of scenes, five prompts each")


def run(arguments: argparse.Namespace) -> int:
    """Writes the folder. Returns the exit code."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    cases = []
    for index in range(FIRST_SCENE, FIRST_SCENE + arguments.scenes):
        scene = draw_scene(HELD_OUT, index)
        picture = f"scene-{index}.png"
        scene.image().save(arguments.output / picture, optimize=True)
        for number, exchange in enumerate(_exchanges(scene, index)):
            name = f"scene-{index}-{number}-{exchange.kind}"
            cases.append({"name": name, "image": picture, "text": exchange.prompt})
    text = json.dumps({"cases": cases}, indent=1) + "\n"
    (arguments.output / "cases.json").write_text(text, encoding="utf-8")
    print(f"{len(cases)} cases in {arguments.output / 'cases.json'}")
    return 0


def _exchanges(scene: Scene, index: int) -> list[Exchange]:
    rng = np.random.default_rng([HELD_OUT, index, 3])
    asked = [question_exchange(scene, rng) for _ in range(QUESTIONS)]
    return [caption_exchange(scene), *asked, chat_exchange(scene, rng, 1)]
