"""Debian's Prometheus, run for real on a free port."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from service import REPOSITORY, get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = REPOSITORY / "deploy" / "prometheus"
CONFIGURATION = FOLDER / "prometheus.yml"
RULES = FOLDER / "blip2.rules.yml"
INTERVAL_S = 1
PATIENCE_S = 30


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; without it the test fails in CI, and is skipped elsewhere."""
    if found := shutil.which(name):
        return found
    remedy = f"no {name}: apt-get install --no-install-recommends prometheus"
    if os.environ.get("CI"):
        pytest.fail(remedy)
    pytest.skip(remedy)


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        status, text = get(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        if status != 200:
            raise ValueError(f"{expression}: {text}")
        return json.loads(text)["data"]["result"]

    def wait_for_readings(self, count: int) -> None:
        """Until it has read the service that often once more. The first time takes it seconds."""
        before, patience = self._readings(), time.monotonic() + PATIENCE_S
        while self._readings() < before + count:
            assert time.monotonic() < patience, f"Prometheus does not read the service: {self.api('targets')}"
            time.sleep(INTERVAL_S / 5)

    def _readings(self) -> int:
        series = self.ask('sum_over_time(up{job="blip2"}[1h])')
        return int(series[0]["value"][1]) if series else 0

    def api(self, path: str) -> Any:  # noqa: ANN401 - any JSON
        """What else it tells."""
        status, text = get(f"{self.url}/api/v1/{path}")
        assert status == 200, text
        return json.loads(text)["data"]


@contextmanager
def running_prometheus(metrics_port: int, folder: Path) -> Iterator[Prometheus]:
    """With the configuration of deploy/, but for the address of the service and shorter intervals."""
    configuration = yaml.safe_load(CONFIGURATION.read_text("utf-8"))
    configuration["global"] = {"scrape_interval": f"{INTERVAL_S}s", "evaluation_interval": f"{INTERVAL_S}s"}
    configuration["rule_files"] = [str(FOLDER / name) for name in configuration["rule_files"]]
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{metrics_port}"]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    port = _free_port()
    command = [tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")
            _wait_until_ready(prometheus, process, folder / "log")
            yield prometheus
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_until_ready(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience and process.poll() is None:
        try:
            if get(f"{prometheus.url}/-/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"Prometheus did not become ready: {log.read_text('utf-8')}")
