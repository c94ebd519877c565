"""Downloads a checkpoint into the cache of the hub's client.

The client downloads everything except the bytes of the weights: when a download of 10 GB breaks off, it discards the
part that has arrived. Here a partial weight file is kept and resumed, in this run or a later one, and compared with the
hub's sha256 before it is renamed to the file that the client looks for.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import DryRunError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from blip2_export.checkpoint.hub.errors import broke
from blip2_export.checkpoint.hub.progress import DownloadProgress
from blip2_export.errors import ExportError
from blip2_export.hashing import file_entry
from blip2_export.progress import progress, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from huggingface_hub import DryRunFileInfo

WEIGHTS = ".safetensors"
# The weights once: repositories hold them in other formats too.
WANTED = ["*.json", "merges.txt", f"*{WEIGHTS}"]
# Seconds before the hub is asked again after the connection broke. They begin anew whenever bytes have come.
PATIENCE = (1, 2, 4, 8, 16)
# Large files lie in the cache under their sha256, small ones under git's hash, which is shorter.
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """The repository and revision to download."""

    id: str
    revision: str | None

    @property
    def blobs(self) -> Path:
        """The folder in which the client keeps the files of this repository, each under its hash."""
        return Path(HF_HUB_CACHE) / f"models--{self.id.replace('/', '--')}" / "blobs"


def download(source: Source) -> Path:
    """Returns the folder of a checkpoint. Cached files are not downloaded again, and need no connection to the hub.

    Raises:
        ExportError: the repository holds no weights, the disk is too small, or a file arrived damaged.
        Exception: any error of the client; `hub.errors` explains them.
    """
    try:
        files = snapshot_download(source.id, revision=source.revision, allow_patterns=WANTED, dry_run=True)
    except DryRunError:  # the hub cannot be asked: the cache may do, or the client says what is wrong
        return _by_the_client(source)
    _check_names(source, [file.filename for file in files])
    missing = [file for file in files if file.will_download]
    if not missing:
        return _by_the_client(source)
    weights = _weights(source, missing)
    there = sum(part.partial.stat().st_size for part in weights if part.partial.exists())
    total = sum(file.file_size or 0 for file in missing)
    _check_disk(source, total - there)
    with DownloadProgress(total) as watch:
        watch.begin(f"downloading {source.id.rpartition('/')[2]}", there)
        for part in weights:
            _fetch(part, watch)
    folder = _by_the_client(source)
    progress(f"downloaded {source.id} into {folder}")
    return folder


def _by_the_client(source: Source) -> Path:
    """Lets the client download the remaining files, which are small, and returns the folder."""
    with disable_progress_bars():
        return Path(snapshot_download(source.id, revision=source.revision, allow_patterns=WANTED))


@dataclass(frozen=True)
class Part:
    """A weight file: its URL, its size, and the path at which the client looks for the complete file."""

    name: str
    url: str
    size: int
    blob: Path  # its name is its sha256

    @property
    def partial(self) -> Path:
        """The partial download. Its suffix lets `hf cache prune` remove downloads that are never finished."""
        return self.blob.with_name(f"{self.blob.name}.blip2.incomplete")


def _weights(source: Source, missing: Sequence[DryRunFileInfo]) -> list[Part]:
    """Selects the large weight files; a file small enough for git is left to the client."""
    found = []
    for file in missing:
        if not file.filename.endswith(WEIGHTS):
            continue
        url = hf_hub_url(source.id, file.filename, revision=file.commit_hash)
        metadata = get_hf_file_metadata(url, retry_on_errors=True)
        if metadata.size and metadata.etag and SHA256.fullmatch(metadata.etag):
            found.append(Part(file.filename, url, metadata.size, source.blobs / metadata.etag))
    return found


def _fetch(part: Part, watch: DownloadProgress) -> None:
    with _alone(part) as stream:
        if part.blob.exists():  # by another process, a moment ago
            part.partial.unlink()
            return
        if stream.seek(0, os.SEEK_END) > part.size:
            stream.truncate(0)
        _receive(part, stream, watch)
        if file_entry(part.partial)["sha256"] != part.blob.name:
            part.partial.unlink()
            raise ExportError(f"{part.name} arrived damaged and was removed; run the same command again")
        part.partial.replace(part.blob)


def _receive(part: Part, stream: IO[bytes], watch: DownloadProgress) -> None:
    """Downloads the missing bytes, and retries when the connection breaks."""
    waits = list(PATIENCE)
    while True:
        before, have = watch.done, stream.seek(0, os.SEEK_END)
        try:
            http_get(
                part.url,
                stream,
                resume_size=have,
                headers=build_hf_headers(),
                expected_size=part.size,
                tqdm_class=watch.bar(),
            )
        except Exception as error:
            waits = list(PATIENCE) if watch.done > before else waits
            if not broke(error) or not waits:
                raise
            seconds = waits.pop(0)
            progress(f"the connection to the hub broke ({type(error).__name__}); going on in {seconds} s")
            time.sleep(seconds)
        else:
            stream.flush()
            return


@contextmanager
def _alone(part: Part) -> Iterator[IO[bytes]]:
    """Yields the partial download, locked: two processes that wrote into one file would corrupt it."""
    part.partial.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(part.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExportError(f"{part.name}: another process is downloading it; wait until that has ended") from error
        except OSError:
            pass  # a file system without locks
        yield stream


def _check_names(source: Source, names: Sequence[str]) -> None:
    if "config.json" not in names:
        raise ExportError(f"{source.id}: the repository has no config.json, so it holds no checkpoint; correct the id")
    if not any(name.endswith(WEIGHTS) for name in names):
        raise ExportError(
            f"{source.id}: the repository has no weights as safetensors; choose a --revision that has them, or convert "
            "them (transformers: from_pretrained, then save_pretrained) and name the folder"
        )


def _check_disk(source: Source, needed: int) -> None:
    """Refuses a download that does not fit on the disk, before it begins."""
    cache = Path(HF_HUB_CACHE)
    exists = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(exists).free
    if free < needed:
        raise ExportError(
            f"{source.id}: the download takes {size(needed)}, and {size(free)} are free on the disk of {cache}; "
            "make room, or choose another folder with HF_HOME"
        )
