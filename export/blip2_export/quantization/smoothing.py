"""Moves outliers out of activations into weights, where calibration data show them (SmoothQuant, arXiv 2211.10438).

int8 gives a token one scale, so that a channel fifty times as large as the others leaves them few steps. A channel
of a LayerNorm is divided by a factor, and the columns that read it are multiplied by the same: nothing changes but
the ranges. The factor weighs both sides alike: sqrt(largest activation / largest weight) of the channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blip2_export.checkpoint.tensors import tensor_shapes
from blip2_export.graph.contract import KV_KINDS, PAST_TEMPLATE
from blip2_export.graph.families import opt, vision_encoder
from blip2_export.inference.session import open_session, with_outputs
from blip2_export.inference.step import Step, step_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from blip2_export.checkpoint.config import Blip2Config, TextConfig
    from blip2_export.checkpoint.reader import Checkpoint
    from blip2_export.quantization.calibration import Calibration

# A channel that is never active, or that nothing reads, keeps its scale.
SMALLEST = 1e-6
ROOTS = {"vision_encoder": vision_encoder.ROOT, "decoder": opt.ROOT}


class Smoothed:
    """A checkpoint whose LayerNorms and the layers after them are rescaled. A `TensorSource`, like `Checkpoint`."""

    def __init__(self, checkpoint: Checkpoint, factors: dict[str, np.ndarray]) -> None:
        """Divides LayerNorms by `factors`, f32 [hidden] by name, and multiplies the layers that read them."""
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        readers = _readers(checkpoint.config)
        self._divided = {f"{norm}.{part}": factor for norm, factor in factors.items() for part in ("weight", "bias")}
        self._multiplied = {name: factor for norm, factor in factors.items() for name in readers[norm]}

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor as f32, rescaled if it belongs to a smoothed pair."""
        values = self.checkpoint.tensor(name, shape)
        if name in self._divided:
            return values / self._divided[name]
        return values * self._multiplied[name] if name in self._multiplied else values


def smoothed(checkpoint: Checkpoint, stage: str, graph: Path, calibration: Calibration) -> Smoothed:
    """Returns the checkpoint smoothed for one stage; `graph` is the stage without smoothing."""
    readers = _readers(checkpoint.config)
    norms = [norm for norm in readers if norm.startswith(ROOTS[stage])]
    is_vision = stage == "vision_encoder"
    inputs = _vision_inputs(calibration) if is_vision else _decoder_inputs(calibration, checkpoint.config.text)
    largest = _largest_activations(graph, norms, inputs)
    shapes = tensor_shapes(checkpoint.config)
    factors = {}
    for norm, activation in largest.items():
        columns = [np.abs(checkpoint.tensor(name, shapes[name])).max(axis=0) for name in readers[norm]]
        weight = np.maximum.reduce(columns)
        usable = (activation > SMALLEST) & (weight > SMALLEST)
        factors[norm] = np.where(usable, np.sqrt(activation / np.where(usable, weight, 1)), 1).astype(np.float32)
    return Smoothed(checkpoint, factors)


def _readers(config: Blip2Config) -> dict[str, list[str]]:
    """Maps each LayerNorm to the weights that read its output only."""
    readers = {}
    for layer in range(config.vision.num_layers):
        name = f"{vision_encoder.ROOT}.encoder.layers.{layer}"
        readers[f"{name}.layer_norm1"] = [f"{name}.self_attn.qkv.weight"]
        readers[f"{name}.layer_norm2"] = [f"{name}.mlp.fc1.weight"]
    for layer in range(config.text.num_layers):
        name = f"{opt.ROOT}.layers.{layer}"
        readers[f"{name}.self_attn_layer_norm"] = [f"{name}.self_attn.{part}_proj.weight" for part in "qkv"]
        readers[f"{name}.final_layer_norm"] = [f"{name}.fc1.weight"]
    return readers


def _largest_activations(
    graph: Path, norms: list[str], inputs: Iterable[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns the largest magnitude of each channel after each LayerNorm, over all inputs: f32 [hidden]."""
    session = open_session(graph, model=with_outputs(graph, norms))
    largest = {norm: np.zeros(1, np.float32) for norm in norms}
    for feed in inputs:
        for norm, values in zip(norms, session.run(norms, feed), strict=True):
            largest[norm] = np.maximum(largest[norm], np.abs(values).max(axis=0))
    return largest


def _vision_inputs(calibration: Calibration) -> Iterator[dict[str, np.ndarray]]:
    return ({"pixel_values": pixels} for _, pixels in calibration.pixel_values())


def _decoder_inputs(calibration: Calibration, text: TextConfig) -> Iterator[dict[str, np.ndarray]]:
    """Yields the prefill inputs of each row, without a past."""
    empty = np.zeros((1, text.num_heads, 0, text.head_dim), np.float32)
    past = {
        PAST_TEMPLATE.format(layer=layer, kind=kind): empty for layer in range(text.num_layers) for kind in KV_KINDS
    }
    for prefix, ids in calibration.prompts():
        yield step_inputs(Step(prefix[None], [ids], [0], np.zeros((1, 1), np.int64))) | past
