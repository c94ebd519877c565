"""Rounds the layers of the decoder by GPTQ, each for its real inputs.

While the decoder is exported, the calibration rows pass through it layer by layer, with the weights rounded so far.
Memory holds one layer and the activations of all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blip2_export.checkpoint.reader import EMBED_TOKENS
from blip2_export.graph.families import weights
from blip2_export.graph.families.opt import LAYER_NORM_EPS
from blip2_export.graph.groups import dequantize
from blip2_export.quantization.gptq import gptq

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blip2_export.checkpoint.reader import Checkpoint
    from blip2_export.graph.groups import Grouped
    from blip2_export.quantization.calibration import Calibration

# A Hessian of all 10,240 inputs of the second feed-forward layer would cost a hundred times as much as four of a
# quarter each, and correlations between far columns are weak.
HESSIAN_COLUMNS = 2560


class GptqRounding:
    """A `linear.Grouping`: the writer of linear layers calls it with one layer after the other."""

    def __init__(self, checkpoint: Checkpoint, calibration: Calibration) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config.text
        self._hidden, self._lengths = self._embedded(calibration)
        self._inner = np.empty(0, np.float32)

    def __call__(self, name: str, weight: np.ndarray, bias: np.ndarray | None, bits: int) -> Grouped:
        """Rounds one layer for its inputs, and moves the rows through it."""
        layer, _, part = name.removesuffix("_proj").rpartition(".")
        inputs = self._inputs(layer, part)
        grouped = gptq(weight, list(_hessians(inputs)), bits)
        outputs = inputs @ dequantize(grouped).T
        self._move(part, outputs if bias is None else outputs + bias)
        return grouped

    def _inputs(self, layer: str, part: str) -> np.ndarray:
        """Returns the inputs of a layer: [tokens, in]."""
        if part == "qkv":
            return self._norm(f"{layer}_layer_norm")
        return self._norm(f"{layer}.final_layer_norm") if part == "fc1" else self._inner

    def _move(self, part: str, outputs: np.ndarray) -> None:
        """Takes the outputs of a layer to the inputs of the next."""
        if part == "qkv":
            self._inner = self._attention(outputs)
        elif part == "fc1":
            self._inner = np.maximum(outputs, 0)
        else:
            self._hidden += outputs

    def _embedded(self, calibration: Calibration) -> tuple[np.ndarray, list[int]]:
        """Returns all rows concatenated, [tokens, hidden], and the length of each."""
        config = self.config
        table = self.checkpoint.tensor(EMBED_TOKENS, (config.vocab_size, config.hidden_size))
        positions = weights.positions(self.checkpoint)
        rows = [np.concatenate([prefix, table[ids]]) for prefix, ids in calibration.prompts()]
        return np.concatenate([row + positions[: len(row)] for row in rows]), [len(row) for row in rows]

    def _norm(self, name: str) -> np.ndarray:
        weight, bias = weights.norm(self.checkpoint, name, self.config.hidden_size)
        centred = self._hidden - self._hidden.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + np.float32(LAYER_NORM_EPS)) * weight + bias

    def _attention(self, qkv: np.ndarray) -> np.ndarray:
        """Computes causal attention within each row: [tokens, 3 * hidden] -> [tokens, hidden]."""
        ends = np.cumsum(self._lengths)
        return np.concatenate([self._attend(row) for row in np.split(qkv, ends[:-1])])

    def _attend(self, qkv: np.ndarray) -> np.ndarray:
        heads, head_dim = self.config.num_heads, self.config.head_dim
        query, key, value = qkv.reshape(len(qkv), 3, heads, head_dim).transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1) * np.float32(head_dim**-0.5)
        scores += np.triu(np.full((len(qkv), len(qkv)), -np.inf, np.float32), 1)
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        return (weight @ value).transpose(1, 0, 2).reshape(len(qkv), -1)


def _hessians(inputs: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the diagonal blocks of inputs.T @ inputs, each of at most HESSIAN_COLUMNS columns."""
    for start in range(0, inputs.shape[1], HESSIAN_COLUMNS):
        part = inputs[:, start : start + HESSIAN_COLUMNS]
        yield part.T @ part
