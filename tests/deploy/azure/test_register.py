"""`python -m blip2_export register --to azure` with the real SDK: its dry run is loaded by it, its model sent by it.

Azure itself is not here: where the SDK's client would connect, a recorder takes the model.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import azure.ai.ml
import pytest
import yaml
from azure.ai.ml import load_model
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

if TYPE_CHECKING:
    from azure.ai.ml.entities import Model

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "export"))

from blip2_export import cli  # noqa: E402  found by the line above

BUNDLE = REPOSITORY / "onnx" / "blip2-shapes-int8"
WORKSPACE = ["--subscription", "s", "--resource-group", "g", "--workspace", "w"]


class Client:
    """Takes what the SDK's client is given. `refusal`, if set, is what Azure answers."""

    made: dict[str, Any]
    sent: Model
    refusal: Exception | None = None

    def __init__(self, credential: object, **where: object) -> None:
        Client.made = {"credential": type(credential).__name__, **where}

    @property
    def models(self) -> Client:
        return self

    def create_or_update(self, model: Model) -> Model:
        if Client.refusal:
            raise Client.refusal
        Client.sent = model
        if model.version is None:
            model.version = "7"
        return model


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(azure.ai.ml, "MLClient", Client)
    monkeypatch.setattr(Client, "refusal", None)
    return Client


def register(*arguments: str, bundle: Path = BUNDLE) -> int:
    return cli.main(["register", "--bundle", str(bundle), "--to", "azure", *arguments])


def saved_dry_run(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> Path:
    assert register("--dry-run", *arguments) == 0
    path = folder / "model.yml"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("version", [[], ["--version", "3"], ["--version", "2026.1"]])
def test_the_dry_run_is_a_file_that_the_sdk_loads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, version: list[str]
) -> None:
    path = saved_dry_run(capsys, tmp_path, *version)
    printed = yaml.safe_load(path.read_text())
    model = load_model(path)
    assert (model.name, model.type) == ("blip2-shapes-int8-onnx", "custom_model")
    assert model.version == (version[1] if version else None)
    assert Path(model.path) == BUNDLE
    assert (model.tags, model.properties) == (printed["tags"], printed["properties"])
    assert model.tags["license"] == "MIT"


def test_a_dry_run_of_another_type_would_be_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """So the test above can fail."""
    path = saved_dry_run(capsys, tmp_path)
    path.write_text(path.read_text().replace("custom_model", "onnx_model"))
    with pytest.raises(Exception, match="onnx_model"):
        load_model(path)


def test_what_is_sent_is_what_the_dry_run_prints(
    client: type[Client], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    loaded = load_model(saved_dry_run(capsys, tmp_path, "--version", "3"))
    assert register(*WORKSPACE, "--version", "3") == 0
    assert capsys.readouterr().out == "blip2-shapes-int8-onnx:3\n"
    sent = client.sent
    fields = ("name", "version", "type", "description", "tags", "properties")
    assert [getattr(sent, field) for field in fields] == [getattr(loaded, field) for field in fields]
    assert Path(sent.path) == Path(loaded.path)
    body = sent._to_rest_object().as_dict()["properties"]
    assert body["modelType"] == "custom_model"
    assert body["properties"]["sha256.decoder.onnx"] == loaded.properties["sha256.decoder.onnx"]
    assert all(isinstance(value, str) for value in {**body["tags"], **body["properties"]}.values())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (WORKSPACE, {"subscription_id": "s", "resource_group_name": "g", "workspace_name": "w"}),
        (["--registry", "r"], {"subscription_id": None, "resource_group_name": None, "registry_name": "r"}),
    ],
)
def test_it_goes_to_workspace_or_registry_and_the_sdk_reports_nothing(
    client: type[Client], arguments: list[str], expected: dict[str, str]
) -> None:
    assert register(*arguments) == 0
    assert client.made == {"credential": "DefaultAzureCredential", "enable_telemetry": False, **expected}


def test_azure_counts_versions_when_none_is_asked_for(client: type[Client], capsys: pytest.CaptureFixture[str]) -> None:
    assert register(*WORKSPACE) == 0
    assert capsys.readouterr().out == f"{client.sent.name}:7\n"


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (HttpResponseError("version 3 exists\nwith more lines"), "did not take the model (version 3 exists)"),
        (ClientAuthenticationError("no token"), "(no token); sign in with `az login`"),
    ],
)
def test_what_azure_refuses_is_one_line(
    client: type[Client],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    refusal: Exception,
    expected: str,
) -> None:
    monkeypatch.setattr(client, "refusal", refusal)
    assert register(*WORKSPACE) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("blip2_export register: workspace w of resource group g, subscription s: Azure ")
    assert line.endswith(expected)


def test_a_damaged_bundle_is_not_sent(
    client: type[Client], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "refusal", AssertionError("it was sent"))
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    path = folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    assert register(*WORKSPACE, bundle=folder) == 2
    assert f"{path}: content differs from the manifest's hash" in capsys.readouterr().err
