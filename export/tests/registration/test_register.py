"""`register` without a registry: what the dry run prints, and what is refused. No package of Azure or MLflow is needed.

tests/deploy/mlflow and tests/deploy/azure do the rest with the real packages.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from blip2_export import cli
from blip2_export.bundle.folder import replace_files
from blip2_export.files import json_bytes
from blip2_export.registration.facts import LONGEST_KEY, LONGEST_VALUE, MOST_ENTRIES, read_facts

Json = dict[str, Any]

EXPORT = Path(__file__).parents[2]
WORKSPACE = ["--subscription", "s", "--resource-group", "g", "--workspace", "w"]


@pytest.fixture
def bundle(int8_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(int8_bundle, tmp_path / "bundle")


def register(bundle: Path, *arguments: str) -> int:
    return cli.main(["register", "--bundle", str(bundle), *arguments])


def printed(capsys: pytest.CaptureFixture[str], bundle: Path, *arguments: str) -> Json:
    assert register(bundle, "--dry-run", *arguments) == 0
    return yaml.safe_load(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], bundle: Path, *arguments: str) -> str:
    assert register(bundle, *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()[-1]


def rewrite(bundle: Path, **changes: Any) -> None:  # noqa: ANN401  any field of a manifest
    """Changes the manifest, and the documents with it."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_bytes(json_bytes({**manifest, **changes}))
    assert cli.main(["describe", "--bundle", str(bundle)]) == 0


def test_the_dry_run_for_azure_is_a_model_file(int8_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, int8_bundle, "--to", "azure", *WORKSPACE, "--version", "3")
    manifest = json.loads((int8_bundle / "manifest.json").read_text())
    assert document["$schema"] == "https://azuremlschemas.azureedge.net/latest/model.schema.json"
    assert (document["name"], document["version"], document["type"]) == ("tiny-onnx", "3", "custom_model")
    assert document["path"] == str(int8_bundle.resolve())
    assert document["tags"] == {
        "task": "visual-question-answering",
        "license": "unknown",
        "huggingface_model_id": "none",
        "SHA": "unknown",
        "precision": "int8",
        "target": "cpu",
        "opset": "21",
        "parity": "not verified",
        "bundle": "tiny",
        "manifest_sha256": hashlib.sha256((int8_bundle / "manifest.json").read_bytes()).hexdigest(),
    }
    properties = document["properties"]
    assert properties["precision.vision_encoder"] == "int8"
    assert properties["precision.qformer"] == "fp32"
    for name, entry in manifest["files"].items():
        assert properties[f"sha256.{name}"] == entry["sha256"]
    for name, entry in manifest["checkpoint"]["files"].items():
        assert properties[f"checkpoint.sha256.{name}"] == entry["sha256"]


def test_the_dry_run_says_where_it_would_go(int8_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(int8_bundle, "--to", "azure", "--dry-run", *WORKSPACE) == 0
    told = capsys.readouterr().err
    assert "nothing was sent; this would go to the workspace w of resource group g, subscription s" in told
    assert "az ml model create --file model.yml --subscription s --resource-group g --workspace-name w" in told
    assert register(int8_bundle, "--to", "azure", "--dry-run", "--registry", "shared") == 0
    assert "az ml model create --file model.yml --registry-name shared" in capsys.readouterr().err


def test_the_dry_run_for_mlflow_tells_tags_and_signature(int8_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, int8_bundle, "--to", "mlflow", "--tracking-uri", "sqlite:///m.db")
    assert (document["tracking_uri"], document["name"]) == ("sqlite:///m.db", "tiny-onnx")
    assert document["tags"]["task"] == "visual-question-answering"
    assert len(document["tags"]["sha256.decoder.onnx"]) == 64
    assert document["signature"] == {
        "inputs": [
            {"type": "binary", "name": "image", "required": True},
            {"type": "string", "name": "text", "required": True},
        ],
        "outputs": [{"type": "string", "name": "text", "required": True}],
        "params": None,
    }


def test_the_real_checkpoint_has_the_names_of_the_catalogue(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    commit = "6e723d92ee91ebcee4ba74d7017632f11ff4217b"
    source = {**manifest["checkpoint"], "id": "Salesforce/blip2-opt-2.7b", "revision": commit}
    rewrite(bundle, name="blip2-opt-2.7b", checkpoint=source)
    document = printed(capsys, bundle, "--to", "azure")
    assert document["name"] == "blip2-opt-2-7b-onnx"
    told = {name: document["tags"][name] for name in ("license", "huggingface_model_id", "SHA")}
    assert told == {
        "license": "MIT AND LicenseRef-OPT-175B",
        "huggingface_model_id": "Salesforce/blip2-opt-2.7b",
        "SHA": commit,
    }
    assert document["properties"]["licence_terms"] == "MIT, OPT-175B License Agreement"


@pytest.mark.parametrize(("name", "expected"), [("a b/c", "a-b-c-onnx"), ("é", "blip2-onnx"), ("x_1.5", "x_1-5-onnx")])
def test_a_name_is_made_that_registries_take(
    bundle: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str
) -> None:
    rewrite(bundle, name=name)
    assert printed(capsys, bundle, "--to", "azure")["name"] == expected


@pytest.mark.parametrize("name", ["with space", "a/b", ".a", "", "a" * 256, "a\nb"])
def test_a_name_that_no_registry_takes_is_refused(
    int8_bundle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert "--name" in refusal(capsys, int8_bundle, "--to", "azure", "--dry-run", "--name", name)


@pytest.mark.parametrize("damage", ["changed", "missing"])
@pytest.mark.parametrize("file", ["decoder.onnx", "MLmodel"])
@pytest.mark.parametrize("to", ["azure", "mlflow"])
def test_a_damaged_bundle_is_refused_by_naming_the_file(
    bundle: Path, capsys: pytest.CaptureFixture[str], to: str, file: str, damage: str
) -> None:
    path = bundle / file
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1] + b"!")
    arguments = ["--tracking-uri", "sqlite:///m.db"] if to == "mlflow" else WORKSPACE
    for more in ([], ["--dry-run"]):
        line = refusal(capsys, bundle, "--to", to, *arguments, *more)
        assert line.startswith(f"blip2_export register: {path}: ")


def test_a_file_that_is_not_of_the_bundle_is_not_uploaded_along(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "golden").mkdir(exist_ok=True)
    (bundle / "golden" / ".secret").write_text("")
    line = refusal(capsys, bundle, "--to", "azure", "--dry-run")
    assert f"{bundle}/golden/.secret: is not listed in manifest.json" in line


def test_an_older_bundle_is_told_how_to_be_described(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace_files(bundle, ("MLmodel", "README.md", "bom.cdx.json"), {})
    line = refusal(capsys, bundle, "--to", "azure", "--dry-run")
    assert "has no MLmodel, README.md, bom.cdx.json" in line
    assert f"python -m blip2_export describe --bundle {bundle}" in line


def test_describing_an_older_bundle_adds_the_documents_and_changes_nothing_else(
    int8_bundle: Path, bundle: Path
) -> None:
    replace_files(bundle, ("MLmodel", "README.md", "bom.cdx.json"), {})
    assert not (bundle / "MLmodel").exists()
    assert cli.main(["describe", "--bundle", str(bundle)]) == 0
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == {
        path.name: path.read_bytes() for path in int8_bundle.iterdir()
    }


def test_describing_a_damaged_bundle_is_refused_but_a_damaged_document_is_mended(
    int8_bundle: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "README.md").write_text("torn")
    assert cli.main(["describe", "--bundle", str(bundle)]) == 0
    assert (bundle / "README.md").read_bytes() == (int8_bundle / "README.md").read_bytes()
    (bundle / "qformer.onnx").write_bytes(b"torn")
    assert cli.main(["describe", "--bundle", str(bundle)]) == 2
    assert "qformer.onnx: content differs" in capsys.readouterr().err


def test_many_files_stay_within_the_limits(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Goldens give way first; the hash of the manifest covers them."""
    goldens = {f"golden/scene-{i}.png": b"" for i in range(80)} | {f"golden/{'x' * LONGEST_KEY}.png": b""}
    replace_files(bundle, ("golden/",), goldens)
    document = printed(capsys, bundle, "--to", "azure")
    properties = document["properties"]
    assert len(properties) == MOST_ENTRIES
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert properties["hashes"] == f"42 of {len(manifest['files']) + len(manifest['checkpoint']['files'])}"
    for name in ("decoder.onnx", "vision_encoder.onnx", "qformer.onnx", "tokenizer.json", "MLmodel"):
        assert f"sha256.{name}" in properties
    for name, value in {**properties, **document["tags"]}.items():
        assert len(name) <= LONGEST_KEY
        assert len(value) <= LONGEST_VALUE
        assert not set(name) & set('<>*%&:\\?/+"') or name.startswith("sha256.golden:")


def test_a_value_too_long_for_a_registry_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(bundle, name="n" * (LONGEST_VALUE + 1))
    line = refusal(capsys, bundle, "--to", "azure", "--dry-run", "--name", "short")
    assert "bundle has 1001 characters, a registry takes 1000" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to", "azure"], "--to azure needs --subscription, --resource-group, --workspace, or --registry"),
        (["--to", "azure", *WORKSPACE[:4]], "--to azure needs --workspace, or --registry"),
        (["--to", "azure", "--registry", "r", *WORKSPACE], "leave out the other's flags"),
        (["--to", "azure", *WORKSPACE, "--tracking-uri", "u"], "--tracking-uri: has no meaning with --to azure"),
        (["--to", "azure", *WORKSPACE, "--version", "a b"], "--version 'a b': a version has"),
        (["--to", "azure", *WORKSPACE, "--version", ""], "--version '': a version has"),
        (["--to", "mlflow"], "--to mlflow needs --tracking-uri or MLFLOW_TRACKING_URI"),
        (["--to", "mlflow", "--tracking-uri", "u", "--version", "2"], "MLflow counts versions itself"),
        (["--to", "mlflow", "--tracking-uri", "u", "--workspace", "w"], "--workspace: has no meaning with --to mlflow"),
        (["--to", "mlflow", "--tracking-uri", "azureml://x"], "use --to azure"),
    ],
)
def test_flags_that_make_no_sense_are_refused_by_name(
    int8_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert expected in refusal(capsys, int8_bundle, *arguments)


@pytest.mark.parametrize(
    ("to", "package", "more"),
    [("azure", "azure.ai.ml", WORKSPACE), ("mlflow", "mlflow", ["--tracking-uri", "sqlite:///m.db"])],
)
def test_a_missing_package_names_its_extra(
    int8_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    to: str,
    package: str,
    more: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install 'blip2-export[{to}]'" in refusal(capsys, int8_bundle, "--to", to, *more)


@pytest.mark.parametrize("to", ["azure", "mlflow"])
def test_a_dry_run_loads_no_big_package_and_opens_no_connection(int8_bundle: Path, to: str) -> None:
    """So it runs in the environments of Azure and MLflow too, which have none of the exporter's packages."""
    arguments = ["register", "--bundle", str(int8_bundle), "--to", to, "--dry-run"]
    arguments += ["--tracking-uri", "http://127.0.0.1:9"] if to == "mlflow" else []
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "from blip2_export.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "big = {'azure', 'mlflow', 'numpy', 'onnx', 'onnxruntime', 'cyclonedx', 'torch', 'safetensors'}\n"
        "assert not big & set(sys.modules), big & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=EXPORT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["name"] == "tiny-onnx"


def test_what_is_registered_is_read_from_another_folder_too(int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(int8_bundle.parent)
    assert read_facts(Path(int8_bundle.name), None).folder == int8_bundle.resolve()
