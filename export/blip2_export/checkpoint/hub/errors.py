"""Explains a failed download from the hub in one line that ends with the remedy."""

from __future__ import annotations

import errno
import os

from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

OR_FOLDER = "or name a folder that holds the checkpoint"


def broke(error: BaseException) -> bool:
    """Returns whether a retry may help: the connection failed, and the hub did not refuse."""
    if any(isinstance(cause, HfHubHTTPError | OfflineModeIsEnabled) for cause in _causes(error)):
        return False
    return any(isinstance(cause, HTTPError) for cause in _causes(error))


def explained(error: BaseException, checkpoint: str, revision: str | None) -> str:
    """Returns what went wrong with the download of this checkpoint, and the remedy."""
    name = f"{checkpoint} at revision {revision}" if revision else checkpoint
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return f"{name}: {_refused(cause, checkpoint, revision)}"
        if isinstance(cause, HFValidationError):
            return f"{checkpoint}: no such folder, and not a valid id of the hub; ids look like owner/name"
        if isinstance(cause, OfflineModeIsEnabled):
            return f"{name}: not in {HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids asking the hub; unset it, {OR_FOLDER}"
    for cause in causes:
        if isinstance(cause, HTTPError):
            return (
                f"{name}: no such folder, and the hub at {ENDPOINT} cannot be reached ({_line(cause)}); check the "
                f"network and HTTPS_PROXY, and run the same command again, which resumes the download, {OR_FOLDER}"
            )
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{name}: the disk of {HF_HUB_CACHE} is full; make room, or choose another folder with HF_HOME"
        if isinstance(cause, PermissionError):
            place = cause.filename or HF_HUB_CACHE
            return f"{name}: {place} is not writable; choose another folder for downloads with HF_HOME"
    return f"{name}: no such folder, and the download from the hub failed ({_line(error)}); run the same command again"


def _refused(error: HfHubHTTPError, checkpoint: str, revision: str | None) -> str:
    status = error.response.status_code
    has_token = bool(os.environ.get("HF_TOKEN"))
    if isinstance(error, GatedRepoError):
        return (
            f"access is gated ({status}): accept the terms at {ENDPOINT}/{checkpoint}, "
            "then set HF_TOKEN to a token of your account"
        )
    if isinstance(error, RevisionNotFoundError):
        asked = f"no revision {revision}" if revision else "no such revision"
        return f"the repository has {asked}; --revision must be a branch, a tag or a full commit id"
    if isinstance(error, RepositoryNotFoundError):
        remedy = "check that the token in HF_TOKEN may read it" if has_token else "set HF_TOKEN if it is private"
        return f"no such folder, and the hub shows no such model ({status}); correct the id, or {remedy}"
    if status in (401, 403):
        token = "the token in HF_TOKEN is wrong or may not read it" if has_token else "set HF_TOKEN"
        return f"the hub refuses ({status}); {token}"
    if status == 429:
        return "the hub limits requests (429); wait a few minutes, or set HF_TOKEN for a higher limit"
    return f"the hub at {ENDPOINT} answered {status}; run the same command again later, {OR_FOLDER}"


def _causes(error: BaseException) -> list[BaseException]:
    """Returns the error and its causes, outermost first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
