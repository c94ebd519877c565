"""The export image turns a checkpoint into a bundle that the cpu image serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from conftest import EXPORT_IMAGE, ROOT, Container, docker, inspect, open_to_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    docker("image", "inspect", EXPORT_IMAGE, check=False).returncode != 0
    and os.environ.get("BLIP2_REQUIRE_DOCKER") != "1",
    reason=f"no image {EXPORT_IMAGE}; make docker-export",
)
HARDENED = ("--network", "none", "--cap-drop", "ALL", "--read-only", "--tmpfs", "/tmp")
STAR = "Question: what color is the star? Answer:"


def test_a_checkpoint_becomes_a_bundle_that_is_served(start: Callable[..., Container], tmp_path: Path) -> None:
    open_to_all(tmp_path)
    tmp_path.chmod(0o777)
    volumes = ("--volume", f"{ROOT / 'onnx/checkpoint'}:/checkpoint:ro", "--volume", f"{tmp_path}:/out")
    arguments = ("--checkpoint", "/checkpoint", "--output", "/out/tiny", "--precision", "int8")
    docker("run", "--rm", "--user", "54321:54321", *HARDENED, *volumes, EXPORT_IMAGE, *arguments)
    container = start(options=("--volume", f"{tmp_path / 'tiny'}:/model:ro"))
    container.wait_until_ready()
    assert container.score([((ROOT / "tests/fixtures/scene.png").read_bytes(), STAR)]) == ["yellow"]


def test_its_faults_are_one_line_and_a_code() -> None:
    result = docker(
        "run", "--rm", *HARDENED, EXPORT_IMAGE, "--checkpoint", "/nothing", "--output", "/tmp/x", check=False
    )
    assert result.returncode == 2
    assert result.stderr.decode().startswith("blip2_export export: /nothing")
    # With the hub's client, and no way to the hub: it says so.
    arguments = ("--checkpoint", "Salesforce/blip2-opt-2.7b", "--output", "/tmp/x")
    result = docker("run", "--rm", *HARDENED, EXPORT_IMAGE, *arguments, check=False)
    assert result.returncode == 2
    assert "hub" in result.stderr.decode()
    assert "Traceback" not in result.stderr.decode()


def test_it_is_the_exporter_alone() -> None:
    packages = ("torch", "transformers", "pytest", "ruff", "huggingface_hub")
    script = f"import importlib.util as i; print([name for name in {packages} if i.find_spec(name)])"
    found = docker("run", "--rm", "--entrypoint", "python", EXPORT_IMAGE, "-c", script).stdout.decode().strip()
    assert found == "['huggingface_hub']"
    config = inspect(EXPORT_IMAGE)["Config"]
    assert config["User"] == "10001:10001"
