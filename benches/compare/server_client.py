"""Asks `blip2 serve` in OpenAI's protocol, which counts new tokens, streams, and tells its stages in a header.

Bodies are made before the clock starts. It runs from the opening of a connection to the last byte of the answer, or of
the first event of a stream.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from compare.errors import CompareError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from http.client import HTTPResponse

PATH = "/v1/chat/completions"
TIMEOUT_S = 900


@dataclass(frozen=True)
class Request:
    """A body, and what its answer must be like."""

    body: bytes
    new_tokens: int
    is_streamed: bool

    @classmethod
    def make(cls, picture: bytes, text: str, new_tokens: int, *, streamed: bool) -> Request:
        """A greedy answer of exactly `new_tokens` tokens."""
        url = "data:image/jpeg;base64," + b64encode(picture).decode("ascii")
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        lengths = {"min_new_tokens": new_tokens, "max_tokens": new_tokens}
        body = {"messages": [{"role": "user", "content": content}], "stream": streamed, **lengths}
        return cls(json.dumps(body).encode("utf-8"), new_tokens, streamed)


@dataclass(frozen=True)
class Reply:
    """How long it took, and what the service says of it."""

    seconds: float
    stages_ms: dict[str, float] = field(default_factory=dict)


def ask(host: str, port: int, request: Request) -> Reply:
    """One request on a connection of its own."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    start = time.perf_counter()
    try:
        connection.request("POST", PATH, request.body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if request.is_streamed and response.status == 200:
            return Reply(_first_event(response, start))
        answer = response.read()
        seconds = time.perf_counter() - start
    except OSError as error:
        raise CompareError(f"asking blip2 serve: {error}; its log says why") from error
    finally:
        connection.close()
    if response.status != 200:
        raise CompareError(f"blip2 serve answered {response.status}: {answer[:300].decode('utf-8', 'replace')}")
    _check_length(answer, request)
    return Reply(seconds, parse_server_timing(response.getheader("Server-Timing", "")))


def ask_together(host: str, port: int, requests: Sequence[Request], at_once: int) -> float:
    """Seconds until all are answered, when at most so many are under way at a time."""
    with ThreadPoolExecutor(min(at_once, len(requests))) as clients:
        start = time.perf_counter()
        for _ in clients.map(lambda request: ask(host, port, request), requests):
            pass
        return time.perf_counter() - start


def server_version(host: str, port: int) -> str:
    """As the service says it, without its name."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        response.read()
        return (response.getheader("x-ms-server-version") or "blip2/unknown").removeprefix("blip2/")
    finally:
        connection.close()


def parse_server_timing(header: str) -> dict[str, float]:
    """`queue;dur=1.2, vision_encoder;dur=560.0` as milliseconds by name."""
    entries = (entry.strip().partition(";dur=") for entry in header.split(",") if ";dur=" in entry)
    return {name: float(value) for name, _, value in entries}


def _first_event(response: HTTPResponse, start: float) -> float:
    """The time of the first event; the rest is read too, so that the next request finds an idle service."""
    seconds = None
    while line := response.readline():
        if line.startswith(b"data:") and seconds is None:
            seconds = time.perf_counter() - start
        if b'"error"' in line:
            raise CompareError(f"the stream of blip2 serve broke: {line[:300].decode('utf-8', 'replace')}")
    if seconds is None:
        raise CompareError("the stream of blip2 serve ended without an event")
    return seconds


def _check_length(answer: bytes, request: Request) -> None:
    new_tokens = json.loads(answer)["usage"]["completion_tokens"]
    if new_tokens != request.new_tokens:
        raise CompareError(f"asked blip2 serve for {request.new_tokens} new tokens, got {new_tokens}")
