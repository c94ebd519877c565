"""Reading layers of the checkpoint: the pairs `{name}.weight` and `{name}.bias`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blip2_export.checkpoint.reader import EMBED_POSITIONS
from blip2_export.checkpoint.tensors import POSITION_OFFSET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blip2_export.checkpoint.reader import TensorSource


class NormWeights(NamedTuple):
    """A LayerNorm: both [size]."""

    weight: np.ndarray
    bias: np.ndarray


class LinearWeights(NamedTuple):
    """A linear layer: weight [out, in], bias [out] or none."""

    weight: np.ndarray
    bias: np.ndarray | None


def norm(checkpoint: TensorSource, name: str, size: int) -> NormWeights:
    """Returns the weights of a LayerNorm."""
    return NormWeights(checkpoint.tensor(f"{name}.weight", (size,)), checkpoint.tensor(f"{name}.bias", (size,)))


def linear(checkpoint: TensorSource, name: str, out: int, into: int, *, has_bias: bool = True) -> LinearWeights:
    """Linear weights [out, in] and their bias."""
    bias = checkpoint.tensor(f"{name}.bias", (out,)) if has_bias else None
    return LinearWeights(checkpoint.tensor(f"{name}.weight", (out, into)), bias)


def positions(checkpoint: TensorSource) -> np.ndarray:
    """OPT's table of positions, [max_positions, hidden], without the rows in front that no token uses."""
    config = checkpoint.config.text
    stored = (config.max_positions + POSITION_OFFSET, config.hidden_size)
    return checkpoint.tensor(EMBED_POSITIONS, stored)[POSITION_OFFSET:]


def stacked(layers: Iterable[LinearWeights]) -> LinearWeights:
    """Several layers that read the same tensor as one: outputs side by side."""
    weights, biases = zip(*layers, strict=True)
    bias = None if biases[0] is None else np.concatenate(biases)
    return LinearWeights(np.concatenate(weights), bias)
