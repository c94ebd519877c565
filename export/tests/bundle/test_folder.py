"""Bundle folders: replaced on request only, extended whole, and refused when damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest
from bundle_files import content, manifest

from blip2_export.bundle import folder as bundle
from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bundle_is_replaced_only_with_force(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    export(ExportOptions(checkpoint, output, name="first"))
    with pytest.raises(ExportError, match="--force"):
        export(ExportOptions(checkpoint, output, name="second"))
    assert manifest(output)["name"] == "first"
    export(ExportOptions(checkpoint, output, name="second", force=True))
    assert manifest(output)["name"] == "second"
    assert list(tmp_path.iterdir()) == [output]


def test_force_does_not_replace_a_folder_that_is_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no manifest\.json"):
        export(ExportOptions(checkpoint, tmp_path / "photos", force=True))
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_added_files_replace_older_ones_and_are_listed(int8_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    owned = ("parity.json", "golden/")
    bundle.replace_files(folder, owned, {"parity.json": b"{}", "golden/a.png": b"a", "golden/b.png": b"b"})
    bundle.replace_files(folder, owned, {"parity.json": b"[]", "golden/b.png": b"B"})
    assert not (folder / "golden" / "a.png").exists()
    assert manifest(folder)["files"]["parity.json"]["sha256"] == hashlib.sha256(b"[]").hexdigest()
    assert set(manifest(folder)["files"]) == set(content(folder)) - {"manifest.json"}
    bundle.check_files(folder, manifest(folder))


def test_interrupted_additions_leave_a_manifest_that_holds(
    int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    bundle.replace_files(folder, ("golden/",), {"golden/a.png": b"old", "golden/b.png": b"old"})
    write = bundle.write_file

    def fail_at_b(path: Path, data: bytes) -> None:
        if path.name == "b.png":
            raise OSError("no space left on device")
        write(path, data)

    monkeypatch.setattr(bundle, "write_file", fail_at_b)
    with pytest.raises(OSError, match="no space"):
        bundle.replace_files(folder, ("golden/",), {"golden/a.png": b"new", "golden/b.png": b"new"})
    bundle.check_files(folder, manifest(folder))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_named(int8_bundle: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    path = folder / "qformer.onnx"
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ExportError, match=r"qformer\.onnx"):
        bundle.check_files(folder, manifest(folder))


@pytest.mark.parametrize("name", ["../outside", "/etc/hosts", "golden/../../outside"])
def test_a_manifest_that_names_files_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "files": {name: {}}}))
    with pytest.raises(ExportError, match="points outside the bundle; do not use"):
        bundle.read_manifest(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 2, "files": {}}))
    with pytest.raises(ExportError, match="schema_version is 2"):
        bundle.read_manifest(tmp_path)
