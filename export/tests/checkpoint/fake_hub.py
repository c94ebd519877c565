"""A hub on this machine that holds one repository: the routes, headers and error codes that the hub's client relies on.

The client is the real one; it is told by HF_ENDPOINT to come here.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

ID = "tiny/blip2-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ERRORS = {401: "RepoNotFound", 403: "GatedRepo", 404: "RevisionNotFound"}
SLOW_CHUNK = 8192
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset, so the client gets an error and not an end


@dataclass
class FakeHub:
    """What it holds, what goes wrong, and what it was asked.

    `refuse` is a status for every file and `refuse_id` one for the repository. So many connections as `breaks` says end
    in the middle of a file of weights, after `break_after` bytes, with `is_reset` by a reset. When it `is_slow`, the
    weights trickle; with `flip` they come with a wrong byte.
    """

    folder: Path
    refuse_id: int | None = None
    refuse: int | None = None
    breaks: int = 0
    break_after: int = 0
    is_reset: bool = False
    is_slow: bool = False
    flip: bool = False
    hidden: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def files(self) -> list[Path]:
        """The files of the repository."""
        return sorted(path for path in self.folder.iterdir() if path.name not in self.hidden)

    def takes_a_break(self) -> bool:
        """Whether this connection is one of those that end early."""
        with self.lock:
            self.breaks -= 1
            return self.breaks >= 0


def is_large(path: Path) -> bool:
    """Large files are stored, and named in the cache, by their sha256."""
    return path.suffix == ".safetensors"


def entry(path: Path) -> Json:
    """A file in the listing of the repository."""
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found: Json = {"type": "file", "oid": git, "size": len(content), "path": path.name}
    if is_large(path):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        if path.startswith(f"/api/models/{ID}"):
            self._api(path.removeprefix(f"/api/models/{ID}"))
        elif path.startswith(f"/{ID}/resolve/{COMMIT}/"):
            self._file(self.hub.folder / path.rpartition("/")[2])
        else:
            self._refuse(401, "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: object) -> None:
        """Nothing: the tests read `asked`."""

    def _api(self, path: str) -> None:
        if self.hub.refuse_id:
            self._refuse(self.hub.refuse_id, "GatedRepo" if self.hub.refuse_id == 403 else "")
        elif path in ("", "/revision/main", f"/revision/{COMMIT}"):
            siblings = [{"rfilename": file.name} for file in self.hub.files()]
            self._json({"id": ID, "modelId": ID, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        elif path == f"/tree/{COMMIT}":
            self._json([entry(file) for file in self.hub.files()])
        else:
            self._refuse(404, "RevisionNotFound")

    def _file(self, path: Path) -> None:
        if self.hub.refuse:
            self._refuse(self.hub.refuse, ERRORS.get(self.hub.refuse, ""))
            return
        content, listed = path.read_bytes(), entry(path)
        etag = listed["lfs"]["oid"] if is_large(path) else listed["oid"]
        start = 0
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            if self.hub.flip and is_large(path):
                content = content[:-1] + bytes([content[-1] ^ 1])
            self._send(content[start:], path)

    def _send(self, content: bytes, path: Path) -> None:
        if is_large(path) and self.hub.takes_a_break():
            self.wfile.write(content[: self.hub.break_after])
            self.wfile.flush()
            time.sleep(0.2)  # so that the client reads what has come before it learns of the end
            if self.hub.is_reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_connection = True
            self.connection.close()
            return
        try:
            if self.hub.is_slow and is_large(path):
                for at in range(0, len(content), SLOW_CHUNK):
                    self.wfile.write(content[at : at + SLOW_CHUNK])
                    time.sleep(0.2)
            else:
                self.wfile.write(content)
        except OSError:  # the client has gone
            self.close_connection = True

    def _json(self, document: Json | list[Json]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
