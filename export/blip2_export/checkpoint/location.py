"""Resolves --checkpoint to a folder: a path, or an id of the Hugging Face hub, which needs the extra `hub`."""

from __future__ import annotations

import re
from pathlib import Path

from blip2_export.errors import ExportError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(checkpoint: str, revision: str | None) -> Path:
    """Returns the folder of a checkpoint, and downloads it into the hub's cache if it is named by an id.

    Raises:
        ExportError: neither a folder nor an id, or the download failed.
    """
    folder = expanded(checkpoint)
    if folder.is_dir() or not REPOSITORY.fullmatch(checkpoint):
        if revision is not None:
            raise ExportError(
                f"--revision {revision}: {checkpoint} not an id of the hub, and only those have revisions; omit it"
            )
        return folder
    try:
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise ExportError(
            f"{checkpoint}: no such folder; to download it from the hub install the extra `hub`: "
            "pip install 'blip2-export[hub]'"
        ) from error
    from blip2_export.checkpoint.hub.download import Source, download
    from blip2_export.checkpoint.hub.errors import explained

    logging.set_verbosity_error()  # what it would say is said here, on the line of progress or as the error
    try:
        return download(Source(checkpoint, revision))
    except ExportError:
        raise
    except Exception as error:  # the client raises errors of its own, of its HTTP library, and plain ones from Xet
        raise ExportError(explained(error, checkpoint, revision)) from error


def expanded(path: str) -> Path:
    """Returns a path with `~` expanded, which not every shell does after `CHECKPOINT=` or `--checkpoint=`.

    Raises:
        ExportError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ExportError(f"{path}: {error}; write the folder out in full") from error
