"""`blip2 serve` on the committed tiny bundle, for tests that read what it says of itself."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "onnx" / "blip2-shapes"
PATIENCE_S = 60


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int
    metrics_port: int

    @property
    def url(self) -> str:
        """Its root, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"


def binary() -> Path:
    """BLIP2_BINARY, or what `make build` or `cargo build` has made."""
    target = REPOSITORY / "target"
    given = os.environ.get("BLIP2_BINARY")
    candidates = [Path(given)] if given else [target / "release" / "blip2", target / "debug" / "blip2"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no binary at {' or '.join(map(str, candidates))}: run `make build`, or set BLIP2_BINARY")


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's, with ONNX Runtime as `make setup` laid it, and without settings of whoever runs the tests."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("BLIP2_")}
    library = {"ORT_DYLIB_PATH": str(REPOSITORY / ".ort" / "libonnxruntime.so"), "ORT_DISABLE_TELEMETRY": "1"}
    return own | library | dict(changes)


@contextmanager
def running(*arguments: str, **changes: str) -> Iterator[Service]:
    """A service with these arguments and variables, on free ports, ready."""
    command = [str(binary()), "serve", "--model", str(BUNDLE), "--host", "127.0.0.1", "--port", "0"]
    command += ["--metrics-port", "0", *arguments]
    with subprocess.Popen(command, env=environment(changes), stdout=subprocess.PIPE, text=True) as process:
        try:
            service = _listening(process)
            # A full pipe would stop the service.
            threading.Thread(target=_drain, args=(process,), daemon=True).start()
            _wait_until_ready(service, process)
            yield service
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    assert process.returncode == 0, "SIGTERM ends the service with 0"


def get(url: str, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _listening(process: subprocess.Popen[str]) -> Service:
    assert process.stdout is not None
    # `port=1` in text, `"port":1` in JSON.
    number = r"\b{}\W{{1,2}}(\d+)"
    for line in process.stdout:
        if "listening" in line:
            found = [re.search(number.format(name), line) for name in ("port", "metrics_port")]
            return Service(*(int(each[1]) for each in found if each))
    raise RuntimeError("the service ended before it listened")


def _drain(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        pass


def _wait_until_ready(service: Service, process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience and process.poll() is None:
        if get(f"{service.url}/readyz")[0] == 200:
            return
        time.sleep(0.05)
    raise RuntimeError("the service did not become ready")
