"""The service on the committed tiny bundle, for tests that ask it with the clients that people already use."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("BLIP2_BINARY", REPOSITORY / "target" / "debug" / "blip2"))
PATIENCE_S = 60


@dataclass(frozen=True)
class Service:
    """A running service."""

    port: int

    @property
    def url(self) -> str:
        """Its root, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """`blip2 serve` with the committed bundle, ready."""
    environment = os.environ | {"ORT_DYLIB_PATH": str(REPOSITORY / ".ort" / "libonnxruntime.so")}
    command = [str(BINARY), "serve", "--model", str(REPOSITORY / "onnx" / "blip2-shapes"), "--host", "127.0.0.1"]
    command += ["--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            service = Service(_port(process))
            # A full pipe would stop the service.
            threading.Thread(target=_drain, args=(process,), daemon=True).start()
            _wait_until_ready(service, process)
            yield service
        finally:
            process.terminate()
    assert process.returncode == 0, "SIGTERM ends the service with 0"


@pytest.fixture(scope="session")
def scene() -> bytes:
    """A picture file: a purple cross, a yellow star and a blue circle."""
    return (REPOSITORY / "tests" / "fixtures" / "scene.png").read_bytes()


@pytest.fixture(scope="session")
def scene_base64(scene: bytes) -> str:
    """The same as base64."""
    return b64encode(scene).decode("ascii")


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"listening.*\bport=(\d+)", line):
            return int(found[1])
    raise RuntimeError("the service ended before it listened")


def _drain(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _ in process.stdout:
        pass


def _wait_until_ready(service: Service, process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{service.url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the service did not become ready")
