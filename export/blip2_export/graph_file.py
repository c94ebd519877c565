"""Graphs on the disk: one .onnx file, and an .onnx.data file beside it when the weights are large.

A protobuf cannot exceed 2 GB, and a large one is read slowly, so large weights lie outside. `onnx` could
write the data file too, but it makes it readable by its owner only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from onnx import TensorProto

from blip2_export.bundle import FILE_MODE, write_file

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

INLINE_LIMIT_BYTES = 512 * 1024 * 1024
SMALL_BYTES = 1024  # shapes and scalars stay in the graph, where shape inference can read them
ALIGNMENT = 4096  # a page: aligned tensors can be mapped instead of read


def write_graph(path: Path, model: onnx.ModelProto, inline_limit: int = INLINE_LIMIT_BYTES) -> None:
    """Writes a graph; its weights go to a data file when they exceed `inline_limit` bytes in all."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > inline_limit:
        _externalize(model, path.with_name(f"{path.name}.data"))
    write_file(path, model.SerializeToString(deterministic=True))


def _externalize(model: onnx.ModelProto, path: Path) -> None:
    with path.open("wb") as stream:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) > SMALL_BYTES:
                stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
                offset = stream.tell()
                stream.write(tensor.raw_data)
                _refer(tensor, path.name, offset)
        stream.flush()
        os.fsync(stream.fileno())
    path.chmod(FILE_MODE)


def _refer(tensor: TensorProto, location: str, offset: int) -> None:
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
