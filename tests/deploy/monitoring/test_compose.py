"""deploy/compose.yaml: what it lets out, and the service of it for real, where a Docker engine and the image are."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import yaml
from prometheus import CONFIGURATION
from service import REPOSITORY, get
from traffic import SCENE, STAR, score

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE = REPOSITORY / "deploy" / "compose.yaml"
IMAGE = os.environ.get("BLIP2_IMAGE", "blip2")
PATIENCE_S = 90


def services() -> dict[str, Any]:
    """As written."""
    return yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]


@pytest.mark.parametrize("name", ["blip2", "prometheus", "grafana"])
def test_a_container_gets_no_more_than_it_needs(name: str) -> None:
    """No port beyond this machine, nothing to write but volumes, no capability, a bound on memory."""
    service = services()[name]
    assert all(port.startswith("127.0.0.1:${") for port in service["ports"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert all(each.endswith(":ro") for each in service["volumes"] if each.startswith((".", "$")))


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_public_images_are_pinned(name: str) -> None:
    """To a version."""
    tag = services()[name]["image"].partition(":")[2]
    assert tag.lstrip("v")[0].isdigit(), tag
    assert tag.count(".") == 2, tag


def test_prometheus_reads_the_metrics_port_of_the_service() -> None:
    """By its name in compose."""
    (job,) = yaml.safe_load(CONFIGURATION.read_text("utf-8"))["scrape_configs"]
    port = services()["blip2"]["environment"]["BLIP2_METRICS_PORT"]
    assert (job["job_name"], job["static_configs"]) == ("blip2", [{"targets": [f"blip2:{port}"]}])


def cannot_run(reason: str) -> NoReturn:
    """Skips, or fails where Docker is required."""
    if os.environ.get("BLIP2_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason}, and BLIP2_REQUIRE_DOCKER=1 requires it")
    pytest.skip(reason)


def compose_command() -> list[str]:
    """Version 2 is a plugin of docker, version 1 a program; either does."""
    if shutil.which("docker") is None:
        cannot_run("no docker: apt-get install docker.io docker-compose")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        cannot_run("no Docker engine answers (`docker info`)")
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        cannot_run(f"no image {IMAGE}: run `make docker`, or set BLIP2_IMAGE")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        cannot_run("no docker-compose: apt-get install docker-compose")
    return ["docker-compose"]


@contextmanager
def composed(port: int, **changes: str) -> Iterator[str]:
    """The service blip2 alone, under a project name of its own; the other two have images that have to be pulled."""
    command = [*compose_command(), "--file", str(COMPOSE), "--project-name", f"blip2test{uuid.uuid4().hex[:12]}"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("BLIP2_")}
    environment = own | {"BLIP2_IMAGE": IMAGE, "BLIP2_HTTP_PORT": str(port), "BLIP2_MEMORY": "1g"} | changes

    def run(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("up", "--detach", "blip2")
        container = run("ps", "--quiet", "blip2").strip()
        _wait_until_ready(port, container)
        yield container
    finally:
        run("down", "--volumes", "--remove-orphans")


def _wait_until_ready(port: int, container: str) -> None:
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        try:
            if get(f"http://127.0.0.1:{port}/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    log = subprocess.run(["docker", "logs", "--tail", "20", container], capture_output=True, text=True, check=False)
    raise RuntimeError(f"the service did not become ready: {log.stdout}{log.stderr}")


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_the_composed_service_answers_a_question_about_a_picture() -> None:
    """Through the published port, from the committed tiny model; metrics are not published."""
    port = free_port()
    with composed(port) as container:
        assert score(f"http://127.0.0.1:{port}", [[SCENE, STAR]]) == (200, '[{"text":"yellow"}]')
        assert get(f"http://127.0.0.1:{port}/metrics")[0] == 404
    left = subprocess.run(["docker", "inspect", container], capture_output=True, check=False)
    assert left.returncode == 1, "the container is still there"


def test_a_key_for_compose_is_asked_of_callers_and_not_of_probes() -> None:
    """BLIP2_API_KEY reaches the container."""
    port = free_port()
    with composed(port, BLIP2_API_KEY="a-key"):
        assert get(f"http://127.0.0.1:{port}/v1/model")[0] == 401
        assert get(f"http://127.0.0.1:{port}/v1/model", Authorization="Bearer a-key")[0] == 200
