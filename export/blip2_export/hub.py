"""Checkpoints named by their id on the Hugging Face hub. Needs the extra `hub`; folders need nothing."""

from __future__ import annotations

import re
from pathlib import Path

from blip2_export.errors import ExportError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# The weights once: repositories hold them in other formats too.
WANTED = ["*.json", "merges.txt", "*.safetensors"]


def local_folder(checkpoint: str, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded into the hub's cache if it is named by an id.

    Raises:
        ExportError: neither a folder nor an id, or the download failed.
    """
    folder = Path(checkpoint)
    if folder.is_dir() or not REPOSITORY.fullmatch(checkpoint):
        if revision is not None:
            raise ExportError(f"--revision {revision}: {checkpoint} is no id of the hub; only those have revisions")
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ExportError(
            f"{checkpoint}: no such folder; to download it from the hub install the extra `hub`: "
            "pip install 'blip2-export[hub]'"
        ) from error
    try:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=WANTED))
    except (OSError, ValueError) as error:  # what the library's own errors derive from
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = f"{checkpoint} at revision {revision}" if revision else checkpoint
        raise ExportError(f"{name}: is no folder, and cannot be downloaded from the hub ({reason})") from error
