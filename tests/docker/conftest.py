"""The image as its users run it: read-only, without network, without rights, under a user that it does not know."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("BLIP2_IMAGE", "blip2")
EXPORT_IMAGE = os.environ.get("BLIP2_EXPORT_IMAGE", "blip2-export")
UNKNOWN_USER = "54321:54321"
MEMORY = "1g"
READY_S = 60


def base(argument: str) -> str:
    """The base image that the Dockerfile names."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"ARG {argument}="))


def docker(*arguments: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """One command of Docker's client."""
    result = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False)
    if check and result.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)}: {result.stderr.decode()}")
    return result


def inspect(name: str) -> dict[str, Any]:
    """What Docker knows of an image or container."""
    return json.loads(docker("inspect", name).stdout)[0]


class Container:
    """A running service. It is asked from a second container in its network, which has no way out."""

    def __init__(self, name: str) -> None:
        self.name = name

    def state(self) -> dict[str, Any]:
        """Running, exit code, health."""
        return inspect(self.name)["State"]

    def log(self) -> str:
        """Both streams."""
        result = docker("logs", self.name)
        return (result.stdout + result.stderr).decode()

    def wait_until_ready(self) -> None:
        """By the image's own health check."""
        deadline = time.monotonic() + READY_S
        while docker("exec", self.name, "blip2", "probe", check=False).returncode != 0:
            assert self.state()["Running"], self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def run_client(self, script: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs Python beside the service."""
        source = ["--volume", f"{ROOT / 'tests/docker'}:/tests:ro", base("PYTHON"), "python", f"/tests/{script}"]
        return docker("run", "--rm", "--interactive", "--network", f"container:{self.name}", *source, stdin=stdin)

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        """Status and body of one request."""
        request = json.dumps({"path": path, "body": body}).encode()
        answer = json.loads(self.run_client("ask.py", request).stdout)
        return answer["status"], answer["body"]

    def score(self, rows: list[tuple[bytes, str]]) -> list[str]:
        """The texts of the published sample request."""
        data = [[base64.encodebytes(image).decode(), text] for image, text in rows]
        body = {"input_data": {"columns": ["image", "text"], "index": list(range(len(rows))), "data": data}}
        status, answer = self.ask("/score", body)
        assert status == 200, answer
        return [row["text"] for row in json.loads(answer)]


@pytest.fixture
def start() -> Iterator[Callable[..., Container]]:
    """Starts containers of the image, hardened unless told otherwise, and removes them."""
    names = []

    def start(*command: str, options: tuple[str, ...] = (), hardened: bool = True, image: str = IMAGE) -> Container:
        name = f"blip2-test-{uuid.uuid4().hex[:12]}"
        names.append(name)
        rights = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
        limits = ("--user", UNKNOWN_USER, "--memory", MEMORY, "--memory-swap", MEMORY, "--pids-limit", "200")
        docker("run", "--detach", "--name", name, *((*rights, *limits) if hardened else ()), *options, image, *command)
        return Container(name)

    yield start
    for name in names:
        docker("rm", "--force", "--volumes", name, check=False)


def open_to_all(folder: Path) -> None:
    """Lets every user reach a folder of pytest's, which are the tester's alone."""
    for parent in folder.parents:
        if "pytest" in parent.name:
            parent.chmod(0o755)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the tiny bundle that anybody can read."""
    copy = tmp_path / "bundle"
    shutil.copytree(ROOT / "onnx/blip2-shapes", copy)
    for path in (tmp_path, copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    open_to_all(tmp_path)
    return copy


@pytest.fixture(scope="session")
def goldens() -> list[dict[str, Any]]:
    """Pictures and questions with their answers."""
    return json.loads((ROOT / "onnx/blip2-shapes/golden/cases.json").read_text())["cases"]
