"""The KV cache of a decoder: one buffer per layer and kind, bound both as `past_key_values` and as `present`.

A run thus extends it in place, on the CPU and on a GPU, as in the Rust runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from blip2_export.graph.contract import KV_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Json = dict[str, Any]
Names = tuple[str, str]  # past, present


def _empty_buffers(decoder: Json, rows: int, max_len: int, fill: float) -> Iterator[tuple[Names, np.ndarray]]:
    """Yields the names and the values of every buffer, one at a time: a GPU's cache need not fit into memory here."""
    shape = (rows, decoder["num_heads"], max_len, decoder["head_dim"])
    for layer in range(decoder["num_layers"]):
        for kind in KV_KINDS:
            past, present = (decoder[name].format(layer=layer, kind=kind) for name in ("past", "present"))
            yield (past, present), np.full(shape, fill, np.dtype(decoder["kv_dtype"]))


class KvCache:
    """Keys and values of some rows, [rows, heads, max_len, head_dim] per layer and kind, filled with `fill`."""

    def __init__(self, decoder: Json, rows: int, max_len: int, fill: float = np.nan) -> None:
        self.buffers: dict[Names, np.ndarray] = dict(_empty_buffers(decoder, rows, max_len, fill))

    def bind(self, binding: ort.IOBinding, rows: int) -> None:
        """Binds the first `rows` rows of every buffer as past and, in the same memory, as present."""
        for (past, present), buffer in self.buffers.items():
            value = ort.OrtValue.ortvalue_from_numpy(buffer[:rows])
            if value.data_ptr() != buffer.ctypes.data:
                raise RuntimeError("ONNX Runtime copied the KV buffer, so it would not be extended in place")
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)

    def store_row(self, row: int, single: KvCache) -> None:
        """Copies the only row of another cache into one of this cache; their other dimensions are equal."""
        for names, buffer in self.buffers.items():
            buffer[row] = single.buffers[names][0]

    def reorder(self, parents: Sequence[int]) -> None:
        """Replaces row i by the old row `parents[i]`."""
        for buffer in self.buffers.values():
            buffer[: len(parents)] = buffer[list(parents)]


class DeviceKvCache:
    """A KV cache in device memory. Rows are moved through the host, which is slow but works on every device."""

    def __init__(
        self, decoder: Json, rows: int, max_len: int, fill: float = np.nan, device: tuple[str, int] = ("cuda", 0)
    ) -> None:
        self.device = device
        self.dtype = np.dtype(decoder["kv_dtype"])
        self.values = {
            names: ort.OrtValue.ortvalue_from_numpy(buffer, *device)
            for names, buffer in _empty_buffers(decoder, rows, max_len, fill)
        }

    def bind(self, binding: ort.IOBinding, rows: int) -> None:
        """See `KvCache`."""
        for (past, present), value in self.values.items():
            shape = [rows, *value.shape()[1:]]
            binding.bind_input(past, *self.device, self.dtype, shape, value.data_ptr())
            binding.bind_output(present, *self.device, self.dtype, shape, value.data_ptr())

    def store_row(self, row: int, single: DeviceKvCache) -> None:
        """See `KvCache`."""
        for names, value in self.values.items():
            host = value.numpy().copy()
            host[row] = single.values[names].numpy()[0]
            value.update_inplace(host)

    def reorder(self, parents: Sequence[int]) -> None:
        """See `KvCache`."""
        for value in self.values.values():
            host = value.numpy().copy()
            host[: len(parents)] = host[list(parents)]
            value.update_inplace(host)
