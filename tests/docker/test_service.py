"""The cpu image at work, under the hardest rules that an orchestrator has."""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from conftest import MEMORY, READY_S, ROOT, docker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Container

    Start = Callable[..., Container]

SCENE = (ROOT / "tests/fixtures/scene.png").read_bytes()
STAR = "Question: what color is the star? Answer:"
DEMO = ("serve", "--model", "/demo")
AZURE = "/var/azureml-app/azureml-models"


def mount(folder: Path, place: str) -> tuple[str, str]:
    return ("--volume", f"{folder}:{place}:ro")


def test_it_answers_the_published_sample(start: Start, goldens: list[dict]) -> None:
    container = start(*DEMO)
    container.wait_until_ready()
    golden = goldens[0]
    image = (ROOT / "onnx/blip2-shapes/golden" / golden["image"]).read_bytes()
    assert container.score([(SCENE, STAR), (image, golden["text"])]) == ["yellow", golden["answer"]]
    assert container.ask("/") == (200, "Healthy")
    assert container.ask("/readyz")[0] == 200
    assert not container.state()["OOMKilled"]
    assert docker("diff", container.name).stdout == b"", "it wrote something"


def test_it_writes_nothing_where_it_could(start: Start) -> None:
    container = start(*DEMO, hardened=False, options=("--user", "0", "--network", "none"))
    container.wait_until_ready()
    assert container.score([(SCENE, STAR)]) == ["yellow"]
    assert docker("diff", container.name).stdout == b""


def test_docker_calls_it_healthy(start: Start) -> None:
    container = start(*DEMO)
    deadline = time.monotonic() + READY_S
    while (status := container.state()["Health"]["Status"]) != "healthy":
        assert status == "starting", container.state()["Health"]
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_it_keeps_to_its_memory(start: Start) -> None:
    container = start(*DEMO)
    container.wait_until_ready()
    plan = re.search(r"memory: .*", container.log())
    assert plan, container.log()
    rows = [(SCENE, STAR)] * 32
    assert container.score(rows) == ["yellow"] * 32
    assert container.state()["Running"]
    assert not container.state()["OOMKilled"]
    print(f"\n{MEMORY}: {plan[0]}")


def test_sigterm_under_load_loses_no_request(start: Start) -> None:
    container = start(*DEMO)
    container.wait_until_ready()
    body = json.dumps({"input_data": {"columns": ["image", "text"], "data": [[_base64(SCENE), STAR]] * 4}}).encode()
    results = []
    client = threading.Thread(target=lambda: results.append(container.run_client("load.py", body)))
    client.start()
    while container.log().count('path="/score" status=200') < 10:  # under load
        assert client.is_alive()
        time.sleep(0.1)
    docker("kill", "--signal", "TERM", container.name)
    client.join()
    code = int(docker("wait", container.name).stdout)
    counts = json.loads(results[0].stdout)
    assert code == 0, container.log()
    assert (counts["lost"], counts["other"]) == (0, []), counts
    answered = container.log().count('path="/score" status=200')
    assert counts["answered"] == answered >= 10, counts


def test_without_a_model_the_start_fails_and_says_how_to_mount_one(start: Start, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for options in ((), mount(tmp_path, "/model")):
        container = start(options=options)
        assert int(docker("wait", container.name).stdout) == 3
        last = container.log().strip().splitlines()[-1]
        assert last.startswith("blip2: no bundle in /model"), last
        assert "docker run -v FOLDER:/model:ro" in last


def test_a_damaged_bundle_is_refused_by_its_file(start: Start, bundle: Path) -> None:
    for name in ("decoder.onnx", "tokenizer.json"):
        path = bundle / name
        whole = path.read_bytes()
        path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
        container = start(options=mount(bundle, "/model"))
        assert int(docker("wait", container.name).stdout) == 3
        assert f"{name} is damaged" in container.log()
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("place", "variable"),
    [
        (f"{AZURE}/blip2/1/bundle", f"{AZURE}/blip2/1"),  # a registered folder
        (f"{AZURE}/6f3e0f2a-0f5c-4a40-9d3c-8f2c0b6a9a10/1/bundle", f"{AZURE}/6f3e0f2a-0f5c-4a40-9d3c-8f2c0b6a9a10/1/"),
        (f"{AZURE}/blip2/1/models/bundle", f"{AZURE}//blip2/1"),  # a local endpoint mounts the parent
        ("/mnt/models/blue/1", "/mnt/models"),  # model_mount_path
        ("/mnt/models", "/mnt/models/"),
        ("/model", None),
    ],
)
def test_azure_s_mounts_are_found(start: Start, bundle: Path, place: str, variable: str | None) -> None:
    environment = ("--env", f"AZUREML_MODEL_DIR={variable}") if variable else ()
    container = start(options=(*mount(bundle, place), *environment))
    container.wait_until_ready()
    assert container.score([(SCENE, STAR)]) == ["yellow"]


def test_two_bundles_in_a_mount_are_not_guessed_between(start: Start, bundle: Path) -> None:
    container = start(options=(*mount(bundle, "/model/a"), *mount(bundle, "/model/b")))
    assert int(docker("wait", container.name).stdout) == 3
    assert "/model holds more than one bundle (/model/a, /model/b)" in container.log()


def test_the_other_commands_are_there_too(start: Start) -> None:
    for command, part in ((("--help",), "Usage: blip2"), (("verify", "--model", "/demo"), "golden      8 of 8")):
        container = start(*command)
        assert int(docker("wait", container.name).stdout) == 0, container.log()
        assert part in container.log()


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
