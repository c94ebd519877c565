"""Hashes files. Needs no numpy, so that commands that only read bundles run without the exporter's dependencies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


def file_entry(path: Path) -> Json:
    """Returns the sha256 and the size in bytes of a file, as manifests list them."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}
