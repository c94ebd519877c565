"""The bills of materials of the images, which `make sbom` makes: valid, complete, and the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("BLIP2_SBOM", REPOSITORY / "target/sbom"))
NAMES = ("blip2.cdx.json", "onnxruntime.cdx.json", "export.cdx.json")
pytestmark = pytest.mark.skipif(
    not all((FOLDER / name).is_file() for name in NAMES), reason=f"{FOLDER} has no bills of materials: make sbom"
)


def bill(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def components(name: str) -> dict[str, set[str]]:
    """Names, with their versions."""
    found: dict[str, set[str]] = {}
    for component in bill(name)["components"]:
        found.setdefault(component["name"].lower().replace("_", "-"), set()).add(component.get("version"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_bill_is_valid_and_tells_nothing_of_the_machine_or_the_time(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    broken = text.replace('"type": "library"', '"type": "lizard"', 1)
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(broken) is not None
    assert str(REPOSITORY) not in text
    assert "serialNumber" not in bill(name)
    assert bill(name).get("metadata", {}).get("timestamp", "1970").startswith("1970")


def test_the_crates_are_those_of_the_lock_file_without_what_only_tests_use() -> None:
    locked = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}
    document = bill("blip2.cdx.json")
    for component in document["components"]:
        assert component["hashes"][0]["content"] == checksums[component["name"], component["version"]]
        assert component["licenses"], component["name"]
    names = {component["name"] for component in document["components"]}
    assert {"actix-web", "ort", "tokenizers", "mozjpeg-sys", "nasm-rs", "ring"} <= names
    assert not {"criterion", "proptest", "tempfile", "rcgen", "ureq"} & names
    assert document["metadata"]["component"]["name"] == "blip2"


def test_every_crate_has_its_licence_text_or_is_listed_without() -> None:
    text = (FOLDER / "THIRD-PARTY-LICENSES").read_text()
    named = {line.split(":")[0] for line in text.splitlines() if ": " in line}
    crates = {f"{part['name']} {part['version']}" for part in bill("blip2.cdx.json")["components"]}
    assert crates <= named
    assert "onig_sys 69.9.3: MIT, oniguruma/COPYING" in text
    assert str(REPOSITORY) not in text


def test_the_library_has_its_hash_and_the_package_it_comes_from() -> None:
    document = bill("onnxruntime.cdx.json")
    files = {part["name"]: part["hashes"][0]["content"] for part in document["components"] if part["type"] == "file"}
    library = REPOSITORY / ".ort/libonnxruntime.so"
    assert files[library.resolve().name] == hashlib.sha256(library.read_bytes()).hexdigest()
    lock = (REPOSITORY / "export/onnxruntime.lock").read_text()
    [package] = [part for part in document["components"] if part["type"] == "library"]
    assert f"onnxruntime=={package['version']} " in lock
    assert all(entry["content"] in lock for entry in package["hashes"])


def test_the_exporter_has_the_packages_of_its_lock_file_and_no_other() -> None:
    lines = (REPOSITORY / "export/requirements-image.lock").read_text().splitlines()
    pairs = [line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#")]
    locked = {name.lower().replace(".", "-"): {version} for name, version in pairs}
    found = {name.replace(".", "-"): versions for name, versions in components("export.cdx.json").items()}
    assert found == locked


@pytest.mark.parametrize("missing", ["lock", "folder"])
def test_a_bill_of_nothing_is_refused(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty.lock").touch()
    lock = tmp_path / "empty.lock" if missing == "lock" else REPOSITORY / "export/onnxruntime.lock"
    folder = tmp_path if missing == "folder" else REPOSITORY / ".ort"
    words = ["--lock", lock, "--folder", folder, "--output", tmp_path / "out.json"]
    command = [sys.executable, REPOSITORY / "deploy/audit/onnxruntime_bom.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("onnxruntime_bom: ")
    assert not (tmp_path / "out.json").exists()
