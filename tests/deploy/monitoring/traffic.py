"""Requests that move every counter: answers, refusals of several kinds, a fetch that may not be, a full queue."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from service import REPOSITORY, get

if TYPE_CHECKING:
    from service import Service

SCENE = b64encode((REPOSITORY / "tests" / "fixtures" / "scene.png").read_bytes()).decode()
STAR = "Question: what color is the star? Answer:"
COUNT = "Question: how many objects are there? Answer:"


def score(url: str, rows: list[list[str]]) -> tuple[int, str]:
    """Status and body of a request in Azure's form."""
    body = json.dumps({"input_data": {"columns": ["image", "text"], "data": rows}}).encode()
    request = urllib.request.Request(f"{url}/score", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def every_kind_of_request(service: Service) -> None:
    """One round; each status is what it should be, or the metrics would be of something else."""
    for question in (STAR, COUNT):
        assert score(service.url, [[SCENE, question]])[0] == 200
    assert get(f"{service.url}/nowhere")[0] == 404
    assert score(service.url, [["not base64", STAR]])[0] == 400
    assert score(service.url, [["http://127.0.0.1:1/scene.png", STAR]])[0] == 400
    assert get(f"{service.url}/readyz")[0] == 200
    # Each takes the whole queue.
    with ThreadPoolExecutor(8) as pool:
        statuses = {status for status, _ in pool.map(lambda _: score(service.url, [[SCENE, STAR]] * 4), range(16))}
    assert 429 in statuses, statuses
