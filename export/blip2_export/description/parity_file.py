"""Reads the parity certificate of a bundle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Json = dict[str, Any]

PARITY, PAGE = "parity.json", "parity.html"


def read_certificate(folder: Path, manifest: Mapping[str, Any]) -> Json | None:
    """Returns the certificate that the manifest lists, if it lists one.

    Raises:
        ExportError: it is no JSON object.
    """
    if PARITY not in manifest["files"]:
        return None
    path = folder / PARITY
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path}: not valid JSON ({error}); verify the bundle again") from error
    if not isinstance(certificate, dict):
        raise ExportError(f"{path}: holds no JSON object; verify the bundle again")
    return certificate
