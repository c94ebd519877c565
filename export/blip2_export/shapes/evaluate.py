"""Asks a running server about scenes that training has never seen, and counts right answers.

An answer is right when it equals the expected text exactly. Needs no torch: the service is tested as by a client.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import urllib.error
import urllib.request
from collections import defaultdict

import numpy as np

from blip2_export.errors import ExportError
from blip2_export.shapes.questions import Exchange, caption_exchange, chat_exchange, question_exchange
from blip2_export.shapes.scenes import HELD_OUT, Scene, draw_scene

FIRST_SCENE = 100_000
"""Training checks itself on held-out scenes from 0 on; these are others."""

QUESTIONS = 5
TIMEOUT_S = 120


def evaluate(url: str, scenes: int) -> float:
    """Asks about every scene, prints a table by kind of question, and returns the percentage of right answers."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number in range(scenes):
        scene = draw_scene(HELD_OUT, FIRST_SCENE + number)
        exchanges = _exchanges(scene, number)
        for exchange, answer in zip(exchanges, _score(url, scene, exchanges), strict=True):
            counts[exchange.kind][1] += 1
            counts[exchange.kind][0] += int(answer == exchange.answer)
        if (number + 1) % 100 == 0:
            print(f"{number + 1} of {scenes} scenes", file=sys.stderr, flush=True)
    return _report(counts)


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
