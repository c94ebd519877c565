"""Writes safetensors files piece by piece, so that the weights need not fit into memory.

A file is 8 bytes with the length of the header, the header (JSON with the type, shape and place of every tensor),
and the data. The format's own library only writes whole dictionaries.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np

from blip2_export.files import FILE_MODE

if TYPE_CHECKING:
    from pathlib import Path

    Shape = tuple[int, ...]

ALIGNMENT = 8  # of the data, in bytes
LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredType:
    """A type of stored numbers: its name in the header, and numpy's."""

    name: str
    numpy: np.dtype

    def tensor_bytes(self, shape: Shape) -> int:
        """Returns the size of a tensor in a file."""
        return math.prod(shape) * self.numpy.itemsize


STORED_TYPES = {
    "float32": StoredType("F32", np.dtype(np.float32)),
    "float16": StoredType("F16", np.dtype(np.float16)),
    "bfloat16": StoredType("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def split_shards(shapes: dict[str, Shape], stored: StoredType, shard_bytes: int) -> dict[str, dict[str, Shape]]:
    """Distributes the tensors over files, in order and by the hub's names. A larger tensor gets a file of its own."""
    shards: list[dict[str, Shape]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = stored.tensor_bytes(shape)
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def create_file(path: Path, tensors: dict[str, Shape], stored: StoredType) -> None:
    """Creates a complete file of zeros, of which most disks store the header only."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files that do not say so
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + stored.tensor_bytes(shape)
        header[name] = {"dtype": stored.name, "shape": shape, "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % ALIGNMENT)
    with path.open("xb") as stream:
        stream.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
        stream.truncate(stream.tell() + end)
    path.chmod(FILE_MODE)


def open_data(path: Path) -> BinaryIO:
    """Opens a file of `create_file` at the data of its first tensor; the others follow without gaps."""
    stream = path.open("r+b")
    stream.seek(LENGTH_BYTES + int.from_bytes(stream.read(LENGTH_BYTES), "little"))
    return stream
