"""`python -m blip2_export register --to mlflow` with the real MLflow, into a database and through a server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from blip2_export import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[3]
BUNDLE = REPOSITORY / "onnx" / "blip2-shapes-int8"
NAME = "blip2-shapes-int8-onnx"
# As the MLmodel of Azure's catalogue model has it.
PUBLISHED = {
    "inputs": '[{"type":"binary","name":"image","required":true},{"type":"string","name":"text","required":true}]',
    "outputs": '[{"type":"string","name":"text","required":true}]',
    "params": None,
}
SERVER_START_S = 120


def register(uri: str, *arguments: str, bundle: Path = BUNDLE) -> int:
    return cli.main(["register", "--bundle", str(bundle), "--to", "mlflow", "--tracking-uri", uri, *arguments])


def version(number: int) -> Any:  # noqa: ANN401  a ModelVersion, which MLflow documents by its fields
    return mlflow.MlflowClient().get_model_version(NAME, str(number))


@pytest.fixture(scope="module")
def registered(registry: str) -> str:
    """The registry, with the bundle in it twice."""
    assert register(registry) == 0
    assert register(registry) == 0
    return registry


def signature(model: Model) -> dict[str, Any]:
    return {name: value and json.loads(value) for name, value in model.signature.to_dict().items()}


def test_the_signature_is_the_published_one(registered: str) -> None:
    published = {name: value and json.loads(value) for name, value in PUBLISHED.items()}
    assert registered
    for place in (f"models:/{NAME}/1", f"models:/{NAME}/2", str(BUNDLE)):
        model = Model.load(place)
        assert signature(model) == published
        assert model.signature == ModelSignature.from_dict(PUBLISHED)
        assert model.signature != ModelSignature(inputs=Schema([ColSpec(DataType.binary, "image")]))


def test_two_versions_in_a_row(registered: str) -> None:
    assert registered
    found = mlflow.MlflowClient().search_model_versions(f"name = '{NAME}'")
    assert sorted(int(entry.version) for entry in found) == [1, 2]
    assert {entry.status for entry in found} == {"READY"}


def test_the_version_tells_what_the_dry_run_printed(registered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(registered, "--dry-run") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    found = version(2)
    assert found.tags == printed["tags"]
    assert found.description == printed["description"]
    assert found.tags["license"] == "MIT"
    manifest = json.loads((BUNDLE / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert found.tags[f"sha256.{name.replace('/', ':')}"] == entry["sha256"]


def test_the_bundle_comes_back_whole(registered: str, tmp_path: Path) -> None:
    assert registered
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/2", dst_path=str(tmp_path)))
    assert _content(folder) == _content(BUNDLE)


def _content(folder: Path) -> dict[str, bytes]:
    """All but what MLflow adds to a model that it hands out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "registered_model_meta")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_bundle_folder_is_a_model_by_itself(registered: str) -> None:
    """So it can be registered by hand too."""
    assert registered
    found = mlflow.register_model(BUNDLE.as_uri(), "by-hand")
    assert Model.load(f"models:/by-hand/{found.version}").flavors["blip2_onnx"]["graphs"]["decoder"] == "decoder.onnx"


def test_loading_as_a_function_names_the_package_that_is_missing(registered: str) -> None:
    assert registered
    with pytest.raises(ModuleNotFoundError, match="No module named 'blip2_onnx'"):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")


def test_the_place_of_the_package_is_kept(registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers the module gets the bundle's folder, and rows by the names of the signature."""
    assert registered
    package = tmp_path / "blip2_onnx"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pyfunc.py").write_text(
        "import json, pathlib\n"
        "class Loaded:\n"
        "    def __init__(self, path):\n"
        "        self.name = json.loads(pathlib.Path(path, 'manifest.json').read_text())['name']\n"
        "    def predict(self, rows, params=None):\n"
        "        return [f'{self.name}: {text}' for text in rows['text']]\n"
        "def _load_pyfunc(path):\n"
        "    return Loaded(path)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("blip2_onnx", "blip2_onnx.pyfunc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import pandas

    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    row = pandas.DataFrame({"image": [b"picture"], "text": ["what?"]})
    assert model.predict(row) == ["blip2-shapes-int8: what?"]
    with pytest.raises(MlflowException, match="missing inputs"):
        model.predict(row[["image"]])


def test_a_damaged_bundle_is_not_registered(
    registered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    path = folder / "qformer.onnx"
    path.write_bytes(path.read_bytes() + b"!")
    assert register(registered, "--name", "damaged", bundle=folder) == 2
    assert f"{path}: content differs" in capsys.readouterr().err
    with pytest.raises(MlflowException, match="damaged"):
        mlflow.MlflowClient().get_registered_model("damaged")


def test_what_mlflow_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert register("unknown://nowhere") == 2
    finally:
        mlflow.set_tracking_uri(None)
    assert tmp_path.exists()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("blip2_export register: unknown://nowhere: MLflow did not take the model (")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A tracking server of MLflow that keeps the artifacts, as teams have one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "kept"), "--serve-artifacts"]
    log = tmp_path / "server.log"
    with log.open("w") as stream, subprocess.Popen(command, cwd=tmp_path, stdout=stream, stderr=stream) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + SERVER_START_S
            while not _answers(f"{url}/health"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.3)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_a_server_keeps_the_bundle_and_knows_the_signature(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert register(server, "--name", "blip2-opt-2-7b-onnx") == 0
        assert capsys.readouterr().out.splitlines()[-1] == "blip2-opt-2-7b-onnx:1"
        assert list((tmp_path / "kept").rglob("decoder.onnx")) != []
        model = Model.load("models:/blip2-opt-2-7b-onnx/1")
        assert model.signature == ModelSignature.from_dict(PUBLISHED)
    finally:
        mlflow.set_tracking_uri(None)
