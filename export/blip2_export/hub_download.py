"""Downloads a checkpoint into the cache of the hub's client.

The client does it, but for the bytes of the weights: when a download of 10 GB ends early, the client throws away what
has come. Here a file of weights is kept until it is whole, goes on where it stopped, in this run or a later one, and is
compared with the hub's sha256 before it gets the name under which the client finds it.
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

from blip2_export.errors import ExportError
from blip2_export.hashing import file_entry
from blip2_export.hub_errors import broke
from blip2_export.hub_progress import DownloadProgress
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
PARTIAL = ".blip2.incomplete"  # the ending lets `hf cache prune` remove what is never finished


@dataclass(frozen=True)
class Source:
    """What is downloaded."""

    id: str
    revision: str | None

    @property
    def blobs(self) -> Path:
        """Where the client keeps the files of this repository, each under its hash."""
        return Path(HF_HUB_CACHE) / f"models--{self.id.replace('/', '--')}" / "blobs"


def download(source: Source) -> Path:
    """The folder with the files of a checkpoint. What is in the cache is not downloaded again, nor needs the hub.

    Raises:
        ExportError: the repository holds no weights, the disk is too small, or a file came damaged.
        Exception: what the client raises; `hub_errors` explains it.
    """
    try:
        files = snapshot_download(source.id, revision=source.revision, allow_patterns=WANTED, dry_run=True)
    except DryRunError:  # the hub cannot be asked: the cache may do, or the client says what is wrong
        return _by_the_client(source)
    _check_names(source, [file.filename for file in files])
    missing = [file for file in files if file.will_download]
    if not missing:
        return _by_the_client(source)
    there = sum(file.stat().st_size for file in source.blobs.glob(f"*{PARTIAL}"))
    total = sum(file.file_size or 0 for file in missing)
    _check_disk(source, total - there)
    with DownloadProgress(total) as watch:
        watch.begin(f"downloading {source.id.rpartition('/')[2]}", there)
        for file in missing:
            if file.filename.endswith(WEIGHTS):
                _weights(source, file, watch)
    folder = _by_the_client(source)
    progress(f"downloaded {source.id} into {folder}")
    return folder


def _by_the_client(source: Source) -> Path:
    """Everything that is not there yet; nothing of it is large."""
    with disable_progress_bars():
        return Path(snapshot_download(source.id, revision=source.revision, allow_patterns=WANTED))


def _weights(source: Source, file: DryRunFileInfo, watch: DownloadProgress) -> None:
    url = hf_hub_url(source.id, file.filename, revision=file.commit_hash)
    metadata = get_hf_file_metadata(url, retry_on_errors=True)
    if metadata.etag is None or not SHA256.fullmatch(metadata.etag):
        return  # small enough for git, so the client may have it
    source.blobs.mkdir(parents=True, exist_ok=True)
    partial = source.blobs / f"{metadata.etag}{PARTIAL}"
    waits = list(PATIENCE)
    with _alone(partial, file.filename) as stream:
        while True:
            before, have = watch.done, stream.seek(0, os.SEEK_END)
            try:
                http_get(
                    url,
                    stream,
                    resume_size=have,
                    headers=build_hf_headers(),
                    expected_size=metadata.size,
                    tqdm_class=watch.bar(),
                )
                break
            except Exception as error:
                waits = list(PATIENCE) if watch.done > before else waits
                if not broke(error) or not waits:
                    raise
                seconds = waits.pop(0)
                progress(f"the connection to the hub broke ({type(error).__name__}); going on in {seconds} s")
                time.sleep(seconds)
        stream.flush()
        if file_entry(partial)["sha256"] != metadata.etag:
            partial.unlink()
            raise ExportError(f"{source.id}: {file.filename} came damaged, and was removed; run the same command again")
        partial.replace(source.blobs / metadata.etag)


@contextmanager
def _alone(partial: Path, name: str) -> Iterator[IO[bytes]]:
    """The file, for this process alone: two that write into one would make a third thing of it."""
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExportError(f"{name}: another process is downloading it; wait until that has ended") from error
        yield stream


def _check_names(source: Source, names: Sequence[str]) -> None:
    if "config.json" not in names:
        raise ExportError(f"{source.id}: the repository has no config.json, so it holds no checkpoint of transformers")
    if not any(name.endswith(WEIGHTS) for name in names):
        raise ExportError(
            f"{source.id}: the repository has no weights as safetensors; choose a --revision that has them, or convert "
            "them (transformers: from_pretrained, then save_pretrained) and name the folder"
        )


def _check_disk(source: Source, needed: int) -> None:
    """Before gigabytes are on their way."""
    cache = Path(HF_HUB_CACHE)
    exists = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(exists).free
    if free < needed:
        raise ExportError(
            f"{source.id}: {size(needed)} are to be downloaded, and {size(free)} are free on the disk of {cache}; "
            "make room, or choose another folder by HF_HOME"
        )
