"""`evaluate-shapes`: asks a running server about scenes that training has never seen, and counts right answers.

An answer is right when it equals the expected text exactly. Needs no torch: the whole road is tried, as a client would.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from blip2_export.errors import ExportError

from .questions import Exchange, caption_exchange, chat_exchange, question_exchange
from .scenes import HELD_OUT, Scene, draw_scene

if TYPE_CHECKING:
    import argparse

FIRST_SCENE = 100_000
"""Training checks itself on held-out scenes from 0 on; these are others."""

QUESTIONS = 5
TIMEOUT_S = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `evaluate-shapes`."""
    parser.add_argument("--url", default="http://127.0.0.1:5001/score", help="scoring route of the server")
    parser.add_argument("--scenes", type=int, default=1000, help="unseen scenes, seven answers each")
    parser.add_argument("--at-least", type=float, default=0.0, help="percentage below which the exit code is 1")


def run(arguments: argparse.Namespace) -> int:
    """Scores the scenes, prints a table, and returns the exit code."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number in range(arguments.scenes):
        scene = draw_scene(HELD_OUT, FIRST_SCENE + number)
        exchanges = _exchanges(scene, number)
        for exchange, answer in zip(exchanges, _score(arguments.url, scene, exchanges), strict=True):
            counts[exchange.kind][1] += 1
            counts[exchange.kind][0] += int(answer == exchange.answer)
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {arguments.scenes} scenes", file=sys.stderr, flush=True)
    share = _report(counts)
    return 0 if share >= arguments.at_least else 1


def _exchanges(scene: Scene, number: int) -> list[Exchange]:
    rng = np.random.default_rng([HELD_OUT, FIRST_SCENE + number, 2])
    asked = [question_exchange(scene, rng) for _ in range(QUESTIONS)]
    return [caption_exchange(scene), *asked, chat_exchange(scene, rng, int(rng.integers(1, 4)))]


def _score(url: str, scene: Scene, exchanges: list[Exchange]) -> list[str]:
    buffer = io.BytesIO()
    scene.image().save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    rows = [[image, exchange.prompt] for exchange in exchanges]
    body = json.dumps({"input_data": {"columns": ["image", "text"], "data": rows}}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return [row["text"] for row in json.load(response)]
    except urllib.error.HTTPError as error:
        raise ExportError(f"{url} answered {error.code}: {error.read(500).decode(errors='replace')}") from error
    except OSError as error:
        raise ExportError(f"no answer from {url}: {error}; start the server with `make run`") from error


def _report(counts: dict[str, list[int]]) -> float:
    for kind, (right, asked) in sorted(counts.items()):
        print(f"{kind:<14} {right:5d} of {asked:5d}  {100 * right / asked:6.2f} %")
    right, asked = (sum(column) for column in zip(*counts.values(), strict=True))
    share = 100 * right / asked
    print(f"{'all':<14} {right:5d} of {asked:5d}  {share:6.2f} %")
    return share
