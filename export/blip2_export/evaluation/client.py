"""Sends rows to a server's `/score`, one per request, and retries while the server is busy or unreachable.

One row per request, because a request is answered whole or not at all; the server batches rows across requests.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

WAITS_S = (0.5, 1, 2, 4, 8, 16, 30, 30, 30)
"""The pauses between tries: two minutes in all, time enough for a server to be started anew."""

LONGEST_WAIT_S = 300
"""A server cannot ask for more with Retry-After."""

MESSAGE_BYTES = 2000
BUSY = (429, 502, 503)
# The server's contract: a fault of one row is a 400 that names it, other faults are of the request and hit every row.
OF_THE_ROW = (413, 500, 504)


class RowRefusedError(Exception):
    """The server refused this row, and would refuse the same request again."""


class _BusyError(Exception):
    def __init__(self, reason: str, retry_after_s: float = 0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ScoreClient:
    """The scoring route of one server. May be used from many threads."""

    def __init__(self, url: str, params: Json, timeout_s: float) -> None:
        self.url = _score_url(url)
        self._params = params
        self._timeout_s = timeout_s
        self._reached = False
        self._closed = threading.Event()

    def close(self) -> None:
        """Makes threads that wait for a retry give up at once."""
        self._closed.set()

    def answer(self, image: Path, text: str) -> str:
        """Returns the server's text for one image and prompt.

        Raises:
            RowRefusedError: the server refuses this row, or fails on it.
            ExportError: the image cannot be read, the server is out of reach, or it would refuse every row.
        """
        body = self._body(image, text)
        for wait_s in (*WAITS_S, None):
            try:
                return self._post(body)
            except _BusyError as busy:
                if not self._reached:
                    raise ExportError(f"{busy}; start the server, or name another with --url") from busy
                if wait_s is None:
                    raise ExportError(f"{busy}; gave up, run the same command again to resume") from busy
                # Unequal pauses, so that threads refused together do not come back together.
                if self._closed.wait(max(wait_s * random.uniform(0.5, 1), busy.retry_after_s)):
                    raise ExportError(f"{busy}; stopped while waiting") from busy
        raise AssertionError("the last try returns or raises")

    def _body(self, image: Path, text: str) -> bytes:
        try:
            encoded = base64.b64encode(image.read_bytes()).decode()
        except OSError as error:
            raise ExportError(f"{image}: {error.strerror}; --images must name the folder of the images") from error
        request: Json = {"input_data": {"columns": ["image", "text"], "data": [[encoded, text]]}}
        if self._params:
            request["params"] = self._params
        return json.dumps(request).encode()

    def _post(self, body: bytes) -> str:
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                self._reached = True
                content = response.read()
        except urllib.error.HTTPError as error:
            self._reached = True
            raise self._refusal(error) from error
        except TimeoutError as error:
            raise _BusyError(f"{self.url}: no answer within {self._timeout_s:g} s (--timeout)") from error
        except (OSError, http.client.HTTPException) as error:
            raise _BusyError(f"{self.url}: no answer: {getattr(error, 'reason', None) or error}") from error
        return self._text(content)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        message = _message(error)
        said = f"{self.url} answered {error.code}: {message}"
        if error.code in BUSY:
            return _BusyError(said, _retry_after_s(error.headers.get("Retry-After")))
        if error.code in OF_THE_ROW or (error.code == 400 and "row 0" in message):
            return RowRefusedError(f"{error.code}: {message}")
        return ExportError(said)

    def _text(self, content: bytes) -> str:
        try:
            [row] = json.loads(content)
            text = row["text"]
        except (ValueError, TypeError, KeyError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise ExportError(f'{self.url} did not answer [{{"text": …}}]; --url names a server of `blip2 serve`')
        return text


def _score_url(url: str) -> str:
    """Returns the scoring route: the URL itself if it has a path, else its `/score`."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ExportError(f"--url {url}: not a URL; write it like http://127.0.0.1:5001")
    return urlunsplit(parts._replace(path=parts.path if parts.path.strip("/") else "/score"))


def _message(error: urllib.error.HTTPError) -> str:
    """Returns the server's message on one line."""
    try:
        content = error.read(MESSAGE_BYTES)
    except (OSError, http.client.HTTPException):
        content = b""
    try:
        message = json.loads(content)["message"]
    except (ValueError, TypeError, KeyError):
        message = content.decode(errors="replace")
    return " ".join(str(message).split()) or str(error.reason)


def _retry_after_s(value: str | None) -> float:
    """Returns the seconds to wait. A date, the header's other form, is ignored in favour of our own pauses."""
    return min(int(value), LONGEST_WAIT_S) if value is not None and value.strip().isdecimal() else 0
