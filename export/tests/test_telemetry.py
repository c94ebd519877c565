"""ONNX Runtime tells its maker nothing when our programs load it.

What it does otherwise, as seen with 1.31.1: the import alone writes a device id and a database of events into
`Microsoft/DeveloperTools/.onnxruntime` in the user's cache, and nine seconds later a connection is opened, through the
proxy of the environment. The first program below is left to do so, which shows that the trap works and how long
to wait. All run at the same time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
# ONNX Runtime does not report from where one of these is set to something.
BUILD_SERVERS = (
    "CI",
    "TF_BUILD",
    "GITHUB_ACTIONS",
    "CIRCLECI",
    "TRAVIS",
    "JENKINS_URL",
    "TEAMCITY_VERSION",
    "APPVEYOR",
)
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
LONGEST_WAIT_S = 90.0  # the connection came after 9 s on an idle machine
MARGIN_S = 3.0

RUN = "session = {session}; print('running', flush=True); import time; time.sleep(600)"
SESSION = "onnxruntime.InferenceSession({graph!r}, providers=['CPUExecutionProvider'])"
EXPORTER = "from blip2_export.verification.onnx_blip2 import OnnxBlip2; " + RUN.format(
    session="OnnxBlip2(Path({bundle!r}), threads=1)"
)
BENCHES = "import compare.rates, onnxruntime; " + RUN.format(session=SESSION)
# A stage of the check is a process of its own.
GPU_CHECK = """
from gpu_check.runner import Runner
from gpu_check.stages import Command, Stage
stage = Stage("stage", "", (Command((sys.executable, "-c", "import onnxruntime"), Path.cwd()),))
assert Runner(Path({results!r}), {{}}, "", 60).run([stage], {{}})
print("running", flush=True)
"""


@dataclass
class Trap:
    """A home of its own, and a proxy that keeps what it is asked for and closes."""

    home: Path
    asked: list[bytes] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """For a program that would find its way out by this trap alone."""
        kept = {name: value for name, value in os.environ.items() if name.upper() not in (*PROXIES, "NO_PROXY")}
        address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        proxies = {name: address for proxy in PROXIES for name in (proxy, proxy.lower())}
        places = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        paths = os.pathsep.join(str(REPOSITORY / folder) for folder in ("export", "benches"))
        elsewhere = dict.fromkeys(BUILD_SERVERS, "")
        return kept | proxies | places | elsewhere | {"PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "0"}

    def written(self) -> list[str]:
        """The files in the home."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())

    def __enter__(self) -> Trap:
        self.home.mkdir()
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(5)
                self.asked.append(b"a connection")
                try:
                    self.asked[-1] = connection.recv(4096)
                except OSError:
                    continue


@dataclass
class Program:
    """A program in a trap. It has loaded ONNX Runtime and opened a session when this was made."""

    trap: Trap
    process: subprocess.Popen[str]


@pytest.fixture
def programs(fp32_bundle: Path, tmp_path: Path) -> Iterator[dict[str, Program]]:
    """The programs, running."""
    words = {
        "bundle": str(fp32_bundle),
        "graph": str(fp32_bundle / "qformer.onnx"),
        "results": str(tmp_path / "results"),
    }
    codes = {
        "left alone": "import onnxruntime; " + RUN.format(session=SESSION),
        "exporter": EXPORTER,
        "benches": BENCHES,
        "gpu_check": GPU_CHECK,
    }
    with ExitStack() as stack:
        found = {}
        for name, code in codes.items():
            trap = stack.enter_context(Trap(tmp_path / name))
            text = "import sys; from pathlib import Path\n" + code.format(**words)
            process = subprocess.Popen(
                [sys.executable, "-c", text], env=trap.environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            found[name] = Program(trap, process)
        for name, program in found.items():
            assert program.process.stdout is not None
            lines = iter(program.process.stdout.readline, "")
            assert "running\n" in lines, f"{name} ended before it was running"
        yield found


def test_no_program_of_ours_reports_to_the_maker_of_onnx_runtime(programs: dict[str, Program]) -> None:
    control = programs.pop("left alone").trap
    assert any("/.onnxruntime/" in name for name in control.written()), "the trap for files catches nothing any more"
    end = time.monotonic() + LONGEST_WAIT_S
    while not control.asked and time.monotonic() < end:
        time.sleep(0.2)
    assert control.asked, "the trap for connections catches nothing any more"
    time.sleep(MARGIN_S)
    told = {name: (program.trap.asked, program.trap.written()) for name, program in programs.items()}
    assert told == {name: ([], []) for name in programs}
