"""A checkpoint folder in the layout of the Hugging Face hub, read one tensor at a time.

Knows files, stored types and tensor names; knows nothing of graphs. Every file it opens is remembered with
its hash, because the manifest tells which bytes a bundle was made from.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors then returns
import numpy as np
from safetensors import SafetensorError, safe_open

from blip2_export.config import Blip2Config, parse_config
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

STORED_TYPES = {"F32", "F16", "BF16"}
EMBED_TOKENS = "language_model.model.decoder.embed_tokens.weight"
LM_HEAD = "language_model.lm_head.weight"


def file_entry(path: Path) -> Json:
    """The sha256 and the size in bytes of a file, as manifests list them."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


@dataclass(frozen=True)
class CheckpointId:
    """Where a checkpoint comes from, as far as its folder tells."""

    id: str
    revision: str | None


class Checkpoint:
    """One checkpoint folder.

    Raises:
        ExportError: a file is missing or unreadable, or the model is one that cannot be exported.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such folder; --checkpoint names a folder with config.json")
        self.folder = folder
        self._read: set[str] = set()
        self.config: Blip2Config = parse_config(self.read_json("config.json"))
        self._shards: dict[str, Any] = {}
        self._shard_of = self._index()
        self._check_tied()

    def path(self, name: str) -> Path:
        """The path of a file that the export reads; from now on it belongs to the provenance."""
        path = self.folder / name
        if not path.is_file():
            raise ExportError(f"{path}: file not found; is the download of the checkpoint complete?")
        self._read.add(name)
        return path

    def has(self, name: str) -> bool:
        """Whether the folder holds a file."""
        return (self.folder / name).is_file()

    def read_json(self, name: str) -> Json:
        """The content of a JSON file of the folder."""
        path = self.path(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExportError(f"{path}: not valid JSON ({error})") from error

    def provenance(self) -> Json:
        """Hash and size of every file that was read so far, by name."""
        return {name: file_entry(self.folder / name) for name in sorted(self._read)}

    def identity(self) -> CheckpointId:
        """Repository and revision when the folder lies in a hub cache, else the folder's own name."""
        folder = self.folder.resolve()
        cached = re.fullmatch(r"models--(.+)", folder.parent.parent.name)
        if folder.parent.name == "snapshots" and cached:
            return CheckpointId(cached[1].replace("--", "/"), folder.name)
        return CheckpointId(folder.name, None)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor as f32, after its shape was compared with the one expected."""
        if name not in self._shard_of:
            raise ExportError(f"{self.folder}: tensor {name} is missing from the checkpoint")
        stored = self._shard(self._shard_of[name])
        view = stored.get_slice(name)
        found = tuple(view.get_shape())
        if found != shape:
            raise ExportError(f"{self.folder}: tensor {name} has shape {found}, config.json asks for {shape}")
        if view.get_dtype() not in STORED_TYPES:
            raise ExportError(f"{self.folder}: tensor {name} is stored as {view.get_dtype()}; use f32, f16 or bf16")
        return np.ascontiguousarray(stored.get_tensor(name).astype(np.float32))

    def _index(self) -> dict[str, str]:
        """Which file holds which tensor."""
        if self.has("model.safetensors.index.json"):
            index = self.read_json("model.safetensors.index.json")
            return dict(index["weight_map"])
        if not self.has("model.safetensors"):
            raise ExportError(
                f"{self.folder}: neither model.safetensors nor model.safetensors.index.json found; "
                "the weights must be in safetensors format"
            )
        return dict.fromkeys(self._shard("model.safetensors").keys(), "model.safetensors")

    def _shard(self, name: str) -> Any:  # noqa: ANN401  safetensors has no type for this
        if name not in self._shards:
            path = self.path(name)
            try:
                self._shards[name] = safe_open(path, framework="np")
            except (SafetensorError, OSError) as error:
                raise ExportError(f"{path}: not a readable safetensors file ({error})") from error
        return self._shards[name]

    def _check_tied(self) -> None:
        """Older files store the output layer too; it must equal the token embedding, which the graphs use."""
        if LM_HEAD not in self._shard_of:
            return
        text = self.config.text
        shape = (text.vocab_size, text.hidden_size)
        if not np.array_equal(self.tensor(LM_HEAD, shape), self.tensor(EMBED_TOKENS, shape)):
            raise ExportError(f"{self.folder}: {LM_HEAD} differs from {EMBED_TOKENS}; only tied weights are supported")
