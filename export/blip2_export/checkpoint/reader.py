"""Reads a checkpoint folder in the layout of the Hugging Face hub, one tensor at a time.

Knows files, stored types and tensor names, but no graphs. It records every file it opens, because the manifest
lists the hashes of all files that a bundle was made from.

A weight file is reopened for every tensor: the library maps whole files into memory, and the pages of a mapping
that stays open would add up to the whole checkpoint.
"""

from __future__ import annotations

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors then returns
import numpy as np
from safetensors import SafetensorError, safe_open

from blip2_export.checkpoint.config import Blip2Config, parse_config
from blip2_export.errors import ExportError
from blip2_export.hashing import file_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Json = dict[str, Any]

STORED_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
EMBED_TOKENS = "language_model.model.decoder.embed_tokens.weight"
EMBED_POSITIONS = "language_model.model.decoder.embed_positions.weight"
LM_HEAD = "language_model.lm_head.weight"


def read_object(path: Path) -> Json:
    """Returns the object that a JSON file holds."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(document, dict):
        raise ExportError(f"{path}: holds no JSON object")
    return document


@dataclass(frozen=True)
class CheckpointId:
    """The origin of a checkpoint, as far as its folder tells."""

    id: str
    revision: str | None


@dataclass(frozen=True)
class StoredTensor:
    """The file, type and shape of a stored tensor."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size in the file, or 0 if the type is not supported."""
        return math.prod(self.shape) * STORED_BYTES.get(self.dtype, 0)


class TensorSource(Protocol):
    """A checkpoint as the writers of graphs read it: as it is stored, or with some tensors changed."""

    config: Blip2Config

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor as f32."""


class Checkpoint:
    """One checkpoint folder. `on_read`, if set, is called with the bytes of a tensor on its first read.

    Raises:
        ExportError: a file is missing or unreadable, or the model is one that cannot be exported.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such folder; --checkpoint names a folder with config.json")
        self.folder = folder
        self.on_read: Callable[[int], None] = lambda _: None
        self._read: set[str] = set()
        self._told: set[str] = set()
        self.config: Blip2Config = parse_config(self.read_json("config.json"))
        self.stored = self._stored()
        self._check_tied()

    def path(self, name: str) -> Path:
        """Returns the path of a file, and adds the file to the provenance."""
        path = self.folder / name
        if not path.is_file():
            raise ExportError(f"{path}: file not found; is the download of the checkpoint complete?")
        self._read.add(name)
        return path

    def has(self, name: str) -> bool:
        """Returns whether the folder holds a file."""
        return (self.folder / name).is_file()

    def read_json(self, name: str) -> Json:
        """Returns the content of a JSON file of the folder."""
        return read_object(self.path(name))

    @contextmanager
    def provenance(self) -> Iterator[Callable[[], Json]]:
        """Hashes every file read so far while the block runs. Yields a function that waits for hash and size of each.

        Hashing runs in parallel with the export, which is busy with arithmetic, and brings each file into the page
        cache before its tensors are read. A block that fails does not wait for the remaining files.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="provenance")
        try:
            entries = {name: pool.submit(file_entry, self.folder / name) for name in sorted(self._read)}
            yield lambda: {name: entry.result() for name, entry in entries.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def identity(self) -> CheckpointId:
        """Returns the repository and revision if the folder is in a hub cache or has the hub's metadata, else the
        folder's own name."""
        folder = self.folder.resolve()
        cached = re.fullmatch(r"models--(.+)", folder.parent.parent.name)
        if folder.parent.name == "snapshots" and cached:
            return CheckpointId(cached[1].replace("--", "/"), folder.name)
        metadata = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
        revision = metadata.read_text(encoding="utf-8").split("\n")[0] if metadata.is_file() else None
        return CheckpointId(folder.name, revision)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor as f32, after checking its shape and that all values are finite."""
        values = self._values(name, shape)
        if name not in self._told:
            self._told.add(name)
            self.on_read(self.stored[name].bytes)
        return values

    def _values(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        stored = self._find(name, shape)
        path = self.folder / stored.file
        with _open(path) as weights:
            raw = weights.get_tensor(name)
        values = np.ascontiguousarray(raw, dtype=np.float32)
        if not np.isfinite(values).all():
            at = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
            raise ExportError(f"{path}: tensor {name} holds {values[at]} at {[int(i) for i in at]}; download it again")
        return values

    def require(self, shapes: dict[str, tuple[int, ...]]) -> int:
        """Checks that every tensor of `shapes` can be read, before long work begins. Returns their total bytes."""
        return sum(self._find(name, shape).bytes for name, shape in shapes.items())

    def _find(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        if name not in self.stored:
            raise ExportError(f"{self.folder}: tensor {name} is missing from the checkpoint; is its download complete?")
        stored = self.stored[name]
        path = self.folder / stored.file
        if stored.shape != shape:
            raise ExportError(f"{path}: tensor {name} has shape {stored.shape}, config.json asks for {shape}")
        if stored.dtype not in STORED_BYTES:
            raise ExportError(f"{path}: tensor {name} is stored as {stored.dtype}; use f32, f16 or bf16")
        return stored

    def _stored(self) -> dict[str, StoredTensor]:
        """Returns all tensors by name, from the headers of the weight files."""
        if not self.has(INDEX):
            if not self.has(SINGLE):
                raise ExportError(
                    f"{self.folder}: neither {SINGLE} nor {INDEX} found; the weights must be in safetensors format"
                )
            return self._header(SINGLE)
        files = self._weight_map()
        headers = {file: self._header(file) for file in sorted(set(files.values()))}
        for name, file in files.items():
            if name not in headers[file]:
                raise ExportError(
                    f"{self.folder / file}: tensor {name} is missing, though {INDEX} lists it; download the file again"
                )
        return {name: headers[file][name] for name, file in files.items()}

    def _weight_map(self) -> dict[str, str]:
        files = self.read_json(INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise ExportError(f"{self.folder / INDEX}: has no weight_map of tensors to files; download it again")
        for file in files.values():
            if Path(file).name != file:
                raise ExportError(f"{self.folder / INDEX}: file name {file!r} points outside the folder; do not use it")
        return files

    def _header(self, file: str) -> dict[str, StoredTensor]:
        with _open(self.path(file)) as weights:
            views = ((name, weights.get_slice(name)) for name in weights.keys())  # noqa: SIM118  not a dict
            return {name: StoredTensor(file, view.get_dtype(), tuple(view.get_shape())) for name, view in views}

    def _check_tied(self) -> None:
        """Checks that an output layer, which older files store, equals the token embedding, which the graphs use."""
        if LM_HEAD not in self.stored:
            return
        text = self.config.text
        shape = (text.vocab_size, text.hidden_size)
        if not np.array_equal(self._values(LM_HEAD, shape), self._values(EMBED_TOKENS, shape)):
            raise ExportError(f"{self.folder}: {LM_HEAD} differs from {EMBED_TOKENS}; only tied weights are supported")


def _open(path: Path) -> Any:  # noqa: ANN401  safetensors has no type for this
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise ExportError(
            f"{path}: not a readable safetensors file ({error}); is the download of the checkpoint complete?"
        ) from error
