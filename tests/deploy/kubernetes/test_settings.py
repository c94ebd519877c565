"""The binary with the variables of the manifests: they exist, and the probes get their answers."""

from __future__ import annotations

import re
import subprocess

import pytest
from rendering import render
from service import BUNDLE, binary, environment, get, running
from workloads import workloads

KEY = "a-key"
SERVING = ("base", "overlays/production", "overlays/gpu", "kserve")


def variables(path: str) -> dict[str, str]:
    """As the container gets them, with a key for the secret."""
    (workload,) = workloads(render(path))
    return {name: value if isinstance(value, str) else KEY for name, value in workload.environment.items()}


def known_variables() -> set[str]:
    """Those that `blip2 serve` says it reads."""
    done = subprocess.run([binary(), "serve", "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"\[env: (BLIP2_\w+)", done.stdout))


@pytest.mark.parametrize("path", SERVING)
def test_every_variable_is_one_that_the_service_reads(path: str) -> None:
    """A misspelt one would be ignored."""
    assert variables(path).keys() <= known_variables()
    assert "BLIP2_DRAIN_DELAYS" not in known_variables()


@pytest.mark.parametrize("path", SERVING)
def test_probes_and_metrics_answer_without_the_key_and_nothing_else_does(path: str) -> None:
    """With the settings of the manifest, but for free ports, and the CPU where it says GPU."""
    (workload,) = workloads(render(path))
    settings = {name: value for name, value in variables(path).items() if name != "BLIP2_PROVIDER"}
    with running(**settings | {"BLIP2_DRAIN_DELAY_S": "0.001"}) as service:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert get(service.url + workload.container[name]["httpGet"]["path"])[0] == 200, name
        assert get(service.metrics_url)[0] == 200
        assert get(f"{service.url}/metrics", Authorization=f"Bearer {KEY}")[0] == 404
        assert get(f"{service.url}/v1/model")[0] == 401
        assert get(f"{service.url}/v1/model", Authorization=f"Bearer {KEY}")[0] == 200


def test_the_links_of_a_service_called_blip2_would_keep_the_service_from_starting() -> None:
    """Why the manifests turn them off."""
    command = [binary(), "serve", "--model", BUNDLE]
    linked = environment({"BLIP2_PORT": "tcp://10.0.0.1:5001"})
    done = subprocess.run(command, env=linked, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--port" in done.stderr
