"""An HTTP server that answers as `/score` does, and fails where it is told to."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Json = dict[str, Any]
DROP = "drop the connection"


class Reply(NamedTuple):
    """What the server says instead of an answer."""

    status: int
    message: str
    retry_after: str | None = None


class ScoreServer(ThreadingHTTPServer):
    """Answers each prompt with its own words, after the faults that are planned for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, str] = {}
        self.faults: dict[str, list[Reply | str]] = {}
        self.asked: Counter[str] = Counter()
        self.bodies: list[Json] = []
        self.at_once = self.most_at_once = 0
        self.together: threading.Barrier | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ScoreServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        [[_, text]] = body["input_data"]["data"]
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.asked[text] += 1
            server.bodies.append(body)
            fault = server.faults[text].pop(0) if server.faults.get(text) else None
        if server.together is not None:
            server.together.wait(timeout=30)
        with server.lock:
            server.at_once -= 1
        if self.path != "/score":
            fault = Reply(404, "no such path")
        if fault == DROP:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault is not None:
            self._send(fault.status, {"message": fault.message}, fault.retry_after)
        else:
            self._send(200, [{"text": server.answers.get(text, "nothing")}], None)

    def _send(self, status: int, content: object, retry_after: str | None) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        pass
