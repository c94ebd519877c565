"""Runs the decoder once, which extends the KV cache in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime as ort

    from blip2_export.inference.kv_cache import DeviceKvCache, KvCache


@dataclass(frozen=True)
class Step:
    """The inputs of one decoder run. Rows are padded on the right to the longest.

    image_prefix f32 [rows, prefix, hidden] (prefix may be 0), input_ids: the new ids of each row, starts: the
    length of each row before the run, logits_index i64 [rows, k].
    """

    image_prefix: np.ndarray
    input_ids: Sequence[Sequence[int]]
    starts: Sequence[int]
    logits_index: np.ndarray


def teacher_forced_step(image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> Step:
    """Makes a step over a prompt and its answer that requests the logits before each token of the answer."""
    first = image_prefix.shape[1] + len(prompt) - 1
    index = np.arange(first, first + len(answer), dtype=np.int64)[None]
    return Step(image_prefix, [[*prompt, *answer[:-1]]], [0], index)


def run_decoder(
    session: ort.InferenceSession, cache: KvCache | DeviceKvCache, step: Step, outputs: Sequence[str]
) -> list[np.ndarray]:
    """Runs the decoder over the first rows of the cache, in place, and returns the requested outputs."""
    binding = session.io_binding()
    for name, value in step_inputs(step).items():
        binding.bind_cpu_input(name, value)
    cache.bind(binding, len(step.input_ids))
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return [value.numpy() for value in binding.get_outputs()[-len(outputs) :]]


def step_inputs(step: Step) -> dict[str, np.ndarray]:
    """Returns the decoder's inputs without the KV buffers, padded on the right."""
    rows, prefix = len(step.input_ids), step.image_prefix.shape[1]
    seq = max(len(ids) for ids in step.input_ids)
    starts = np.array(step.starts)
    ends = starts + prefix + [len(ids) for ids in step.input_ids]
    input_ids = np.zeros((rows, seq), np.int64)
    for row, ids in enumerate(step.input_ids):
        input_ids[row, : len(ids)] = ids
    # Padding repeats the row's last position, so that it stays inside the table of positions.
    positions = np.minimum(starts[:, None] + np.arange(prefix + seq), ends[:, None] - 1)
    return {
        "input_ids": input_ids,
        "image_prefix": np.ascontiguousarray(step.image_prefix, dtype=np.float32),
        "position_ids": positions.astype(np.int64),
        "seqlens_k": (ends - 1).astype(np.int32),
        "total_sequence_length": np.array(ends.max(), np.int32),
        "logits_index": np.ascontiguousarray(step.logits_index, dtype=np.int64),
    }
