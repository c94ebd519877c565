"""Writes files that are complete or absent, and JSON the way every file of a bundle has it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

Json = dict[str, Any]

FILE_MODE = 0o644  # a service under another user must be able to read the bundle
FOLDER_MODE = 0o755


def json_bytes(document: Json) -> bytes:
    """Formats JSON as in all files of a bundle."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def write_file(path: Path, content: bytes) -> Json:
    """Writes a file atomically and syncs it to the disk. Returns its hash and size."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(FILE_MODE)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
