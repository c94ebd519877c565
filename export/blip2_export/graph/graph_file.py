"""A graph on the disk while it is being written: `{stage}.onnx`, and `{stage}.onnx.data` beside it.

Constants go to the data file as they come, so that no more than one layer is ever in memory, and every byte is
hashed on its way. When a graph turns out small, its constants move into the protobuf and the data file goes.
`onnx` could write data files too, but only from a complete model in memory, and readable by their owner only.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from onnx import TensorProto

from blip2_export.errors import ExportError
from blip2_export.files import FILE_MODE, write_file
from blip2_export.graph.builder import store_inline

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import onnx

Json = dict[str, Any]

INLINE_LIMIT_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 1024  # shapes and scalars stay in the graph, where shape inference can read them
ALIGNMENT = 4096  # a page: aligned tensors can be mapped instead of read


class GraphFile:
    """Writes one graph. `store` takes the constants, `finish` the graph; used as a context manager."""

    def __init__(self, path: Path, inline_limit: int = INLINE_LIMIT_BYTES) -> None:
        self.path = path
        self.data_path = path.with_name(f"{path.name}.data")
        self._inline_limit = inline_limit
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._stream = self.data_path.open("w+b")

    def __enter__(self) -> GraphFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def store(self, name: str, values: np.ndarray) -> TensorProto:
        """Writes a constant to the data file and returns the reference to it; small ones are returned whole."""
        if values.nbytes <= SMALL_BYTES:
            return store_inline(name, values)
        self._write(bytes(-self._bytes % ALIGNMENT))
        offset = self._bytes
        self._write(memoryview(values.reshape(-1)).cast("B"))
        tensor = store_inline(name, values[:0])  # name and element type
        del tensor.dims[:]
        tensor.dims.extend(values.shape)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.data_path.name), ("offset", offset), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def finish(self, model: onnx.ModelProto) -> Json:
        """Writes the graph, and returns hash and size of its files by name, as manifests list them."""
        entries = {}
        if self._bytes <= self._inline_limit:
            self._move_inside(model)
            self.data_path.unlink()
        else:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self.data_path.chmod(FILE_MODE)
            entries[self.data_path.name] = {"sha256": self._digest.hexdigest(), "bytes": self._bytes}
        entries[self.path.name] = write_file(self.path, model.SerializeToString(deterministic=True))
        return entries

    def _write(self, content: bytes | memoryview) -> None:
        try:
            self._stream.write(content)
        except OSError as error:  # of a full disk the system does not tell which
            raise ExportError(f"{self.data_path.name}: {error.strerror} after {self._bytes} bytes") from error
        self._digest.update(content)
        self._bytes += len(content)

    def _move_inside(self, model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in tensor.external_data}
                self._stream.seek(int(place["offset"]))
                tensor.raw_data = self._stream.read(int(place["length"]))
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
