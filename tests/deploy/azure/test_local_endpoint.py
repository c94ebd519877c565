"""The real SDK's local endpoint runs our image on the Docker engine of this machine, and its invoke() gets the answer.

Needs an engine and the image (BLIP2_IMAGE, `blip2` by default; `make docker`). Without them it is skipped, or fails
where BLIP2_REQUIRE_DOCKER is 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from typing import TYPE_CHECKING, NoReturn

import azure.ai.ml
import docker
import pytest
from azure.ai.ml import MLClient, load_online_deployment, load_online_endpoint
from conftest import AZURE, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint

IMAGE = os.environ.get("BLIP2_IMAGE", "blip2")


class NobodysCredential:
    """A client wants a credential; a local endpoint never uses it."""

    def get_token(self, *_scopes: str, **_options: object) -> NoReturn:
        raise AssertionError("a local endpoint asked for a token of Azure")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("BLIP2_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason}, and BLIP2_REQUIRE_DOCKER=1")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    """The Docker engine, with the image in it."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        _missing(f"no Docker engine answers: {error}"[:200])
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        _missing(f"the image {IMAGE} is missing: make docker, or set BLIP2_IMAGE")
    return client


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MLClient:
    """The SDK keeps notes of local endpoints under the home folder: let it be another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return MLClient(NobodysCredential(), "00000000-0000-0000-0000-000000000000", "group", "workspace")


@pytest.fixture
def endpoint(engine: docker.DockerClient, client: MLClient) -> Iterator[ManagedOnlineEndpoint]:
    """An endpoint of its own, whose containers are gone afterwards."""
    endpoint = load_online_endpoint(AZURE / "local" / "endpoint.yml")
    endpoint.name = f"blip2-{uuid.uuid4().hex[:12]}"
    try:
        client.online_endpoints.begin_create_or_update(endpoint, local=True)
        yield endpoint
    finally:
        for container in engine.containers.list(all=True, filters={"name": f"{endpoint.name}."}):
            container.remove(force=True)


def _deployment(endpoint: ManagedOnlineEndpoint) -> ManagedOnlineDeployment:
    deployment = load_online_deployment(AZURE / "local" / "deployment.yml")
    deployment.endpoint_name = endpoint.name
    deployment.environment.image = IMAGE
    return deployment


def _request(folder: Path, question: str) -> Path:
    body = json.loads((AZURE / "sample-request.json").read_text())
    body["input_data"]["data"][0][1] = question
    path = folder / "request.json"
    path.write_text(json.dumps(body))
    return path


def _invoke(client: MLClient, endpoint: ManagedOnlineEndpoint, request: Path) -> object:
    return json.loads(client.online_endpoints.invoke(endpoint.name, request_file=str(request), local=True))


def test_the_file_as_it_is_answers(client: MLClient, endpoint: ManagedOnlineEndpoint, tmp_path: Path) -> None:
    deployed = client.online_deployments.begin_create_or_update(_deployment(endpoint), local=True)
    assert deployed.provisioning_state == "Succeeded"
    assert _invoke(client, endpoint, AZURE / "sample-request.json") == [{"text": "yellow"}]
    # Another question, so that no fixed answer passes.
    question = _request(tmp_path, "Question: how many objects are there? Answer:")
    assert _invoke(client, endpoint, question) == [{"text": "three"}]
    # The SDK hands on whatever came, without the status.
    refused = _invoke(client, endpoint, _broken(tmp_path))
    assert isinstance(refused, dict)
    assert "row 0" in refused["message"]
    logs = client.online_deployments.get_logs(name="blue", endpoint_name=endpoint.name, lines=100, local=True)
    assert "POST /score 200" in logs or 'path="/score" status=200' in logs
    client.online_endpoints.begin_delete(endpoint.name, local=True)


def test_the_lines_of_the_page_answer(
    client: MLClient,
    endpoint: ManagedOnlineEndpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/azure.md, as it stands, but for the names of the image and of the endpoint."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "azure.md").read_text(), re.DOTALL)
    load = load_online_deployment

    def with_our_image(path: str) -> ManagedOnlineDeployment:
        deployment = load(path)
        deployment.environment.image = IMAGE
        deployment.endpoint_name = endpoint.name
        return deployment

    monkeypatch.setattr(azure.ai.ml, "load_online_deployment", with_our_image)
    monkeypatch.setattr(azure.ai.ml, "load_online_endpoint", lambda _path: endpoint)
    monkeypatch.chdir(REPOSITORY)
    exec(compile(snippet.replace("blip2-vqa-local", endpoint.name), "docs/azure.md", "exec"), {})
    assert '[{"text":"yellow"}]' in capsys.readouterr().out


def _broken(folder: Path) -> Path:
    path = folder / "broken.json"
    path.write_text(json.dumps({"input_data": {"columns": ["image", "text"], "data": [["no picture", "x"]]}}))
    return path


def test_a_folder_of_the_bundle_answers_where_it_is_alone(
    client: MLClient, endpoint: ManagedOnlineEndpoint, tmp_path: Path
) -> None:
    """The layout of a registered folder, `$AZUREML_MODEL_DIR/<folder>/…`, under the SDK's path with two slashes."""
    shutil.copytree(REPOSITORY / "onnx" / "blip2-shapes", tmp_path / "above" / "blip2-shapes")
    deployment = _deployment(endpoint)
    deployment.model.path = str(tmp_path / "above" / "blip2-shapes")
    client.online_deployments.begin_create_or_update(deployment, local=True)
    assert _invoke(client, endpoint, AZURE / "sample-request.json") == [{"text": "yellow"}]


def test_two_bundles_under_the_mount_are_refused_with_their_names(
    engine: docker.DockerClient, client: MLClient, endpoint: ManagedOnlineEndpoint, tmp_path: Path
) -> None:
    """Why local/deployment.yml names the manifest: the SDK mounts the folder above the path."""
    for name in ("blip2-shapes", "blip2-shapes-int8"):
        shutil.copytree(REPOSITORY / "onnx" / name, tmp_path / "above" / name)
    deployment = _deployment(endpoint)
    deployment.model.path = str(tmp_path / "above" / "blip2-shapes")
    with pytest.raises(Exception, match=r"(?i)failed|state"):
        client.online_deployments.begin_create_or_update(deployment, local=True)
    (container,) = engine.containers.list(all=True, filters={"name": f"{endpoint.name}."})
    _wait_for_the_end(container)
    assert container.attrs["State"]["ExitCode"] == 3
    said = container.logs().decode()
    assert "blip2-shapes-int8" in said
    assert "/var/azureml-app/azureml-models" in said


def _wait_for_the_end(container: docker.models.containers.Container) -> None:
    for _ in range(50):
        container.reload()
        if container.status == "exited":
            return
        time.sleep(0.2)
    raise AssertionError(f"{container.name} is {container.status}")


def test_without_a_code_configuration_the_sdk_fails(client: MLClient, endpoint: ManagedOnlineEndpoint) -> None:
    """Should this pass one day, code_configuration can go from local/deployment.yml."""
    deployment = _deployment(endpoint)
    deployment.code_configuration = None
    with pytest.raises(Exception, match=r"(?i)nonetype|typeerror|code_configuration|no attribute"):
        client.online_deployments.begin_create_or_update(deployment, local=True)
