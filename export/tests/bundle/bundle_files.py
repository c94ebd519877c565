"""The manifest and the files of a bundle, as tests compare them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

# The fixtures of whole bundles.
BUNDLES = ["fp32_bundle", "int8_bundle"]


def manifest(folder: Path) -> Json:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
