"""Writes a bundle folder whole or not at all, reads its manifest, and adds files to it later.

docs/bundle.md defines the format. Bytes depend on the checkpoint and the options alone: no times, no paths.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError
from blip2_export.files import FOLDER_MODE, json_bytes, write_file
from blip2_export.hashing import file_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@contextmanager
def new_bundle(output: Path, *, force: bool) -> Iterator[Path]:
    """Yields an empty folder that becomes `output` when the block ends well, and vanishes when it does not.

    Raises:
        ExportError: `output` exists, is not empty, and `force` was not given.
    """
    check_output(output, force=force)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield work
        work.chmod(FOLDER_MODE)
        _sync_folder(work)
        _put_in_place(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_output(output: Path, *, force: bool) -> None:
    """Refuses an output folder that must not be written or replaced, before any work is done."""
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output}: not a folder; --output must name the folder to write")
    if output.is_dir() and any(output.iterdir()):
        if not force:
            raise ExportError(f"{output}: folder is not empty; choose another, or replace it with --force")
        if not (output / MANIFEST).is_file():
            raise ExportError(
                f"{output}: holds files but no {MANIFEST}, and --force replaces bundles only; choose another folder"
            )


def _put_in_place(work: Path, output: Path) -> None:
    """Renames the finished folder. A replaced bundle is set aside, since rename overwrites no folder."""
    if not output.exists():
        work.rename(output)
    else:
        aside = work.with_name(f"{work.name}.replaced")
        output.rename(aside)
        try:
            work.rename(output)
        except BaseException:
            aside.rename(output)
            raise
        shutil.rmtree(aside)
    _sync_folder(output.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> Json:
    """Returns the manifest of a bundle.

    Raises:
        ExportError: there is none, or it is of another schema version, or it names files outside the bundle.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ExportError(f"{path}: file not found; --bundle must name a folder written by `export`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path}: not valid JSON ({error}); export the bundle again") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ExportError(
            f"{path}: schema_version is {manifest.get('schema_version')}, not {SCHEMA_VERSION}; export the bundle again"
        )
    for name in manifest["files"]:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise ExportError(f"{path}: file name {name!r} points outside the bundle; do not use this bundle")
    return manifest


def check_files(folder: Path, manifest: Json) -> None:
    """Compares every listed file with its hash.

    Raises:
        ExportError: a file is missing or differs.
    """
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ExportError(f"{path}: file not found, but the manifest lists it; export the bundle again")
        if file_entry(path) != expected:
            raise ExportError(f"{path}: content differs from the manifest's hash; export the bundle again")


def replace_files(folder: Path, owned: tuple[str, ...], contents: dict[str, bytes]) -> None:
    """Replaces the files whose names start with one of `owned` by `contents`, and lists them in the manifest.

    The manifest first loses the old entries and gets the new ones last, so whenever this is interrupted,
    every file that the manifest lists is there and has the hash it says.
    """
    manifest = read_manifest(folder)
    kept = {name: entry for name, entry in manifest["files"].items() if not name.startswith(owned)}
    write_file(folder / MANIFEST, json_bytes({**manifest, "files": kept}))
    for name in set(manifest["files"]) - set(kept) - set(contents):
        (folder / name).unlink(missing_ok=True)
    added = {name: write_file(folder / name, content) for name, content in contents.items()}
    write_file(folder / MANIFEST, json_bytes({**manifest, "files": dict(sorted((kept | added).items()))}))
