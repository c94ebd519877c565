"""Weights of a synthetic checkpoint: random, yet a model whose activations and answers look like a trained one's.

Each tensor is a function of the seed, its name and its shape, made in pieces that do not depend on one another; a
new version of numpy may draw other numbers. The scales follow from the dimensions, so that at any size

- the residual stream of ViT and OPT grows by the same factor in every layer, to a few times what it began with;
- attention looks at a handful of positions, and is not so large that all positions end up alike;
- what images and prompts have in common does not take over: the rows of a layer after an activation function
  sum to zero, since the mean of the activations would add one and the same vector everywhere;
- a few channels of every LayerNorm are many times larger than the rest, as in trained models, and the outputs of
  every linear layer differ in scale: quantisation has to face both;
- the output layer, which is the token embedding, does not just repeat the last token: see `_norm_weight`.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blip2_export.checkpoint.config import Blip2Config

    Shape = tuple[int, ...]

# All deviations are standard deviations.
PIECE_VALUES = 1 << 20  # pieces are random streams of their own: another number here means other weights
LOGIT_DEVIATION = 3.0
SCORE_DEVIATION = 3.0  # of attention scores before the softmax, were the positions independent
CONTEXT_DEVIATION = 0.75  # of an average of values that attention takes; the values have 1
ACTIVATION_DEVIATION = 0.585  # of relu and of gelu, applied to numbers with deviation 1
POSITION_SHARE = 0.5  # of positions, compared with the patches or tokens they are added to
RESIDUAL_GROWTH = {"vision_model": 8.0, "language_model": 6.0}  # from first to last layer
ATTENTION_SHARE = {"vision_model": 0.15, "language_model": 0.25}  # of the variance a layer adds; the MLP adds the rest
QFORMER_BRANCH = {"attention": 0.2, "crossattention": 0.3, "output_query": 0.35}  # beside a residual of 1
BIAS_SHARE = 0.1  # of biases, compared with what a layer puts out
NORM_SPREAD = 0.2  # of the logarithm of LayerNorm weights
ROW_SPREAD = 0.25  # of the logarithm of the scale of a linear layer's outputs
OUTLIER_EVERY = 256  # channels a LayerNorm, or one where there are fewer
OUTLIERS = (5.0, 10.0)  # times an ordinary channel, from this width on
OUTLIER_WIDTH = 1024  # below it outliers shrink, or they would be most of a narrow layer's variance


@dataclass(frozen=True)
class Linear:
    """The deviations of a linear layer's input and outputs; several `outputs` are equal parts stacked in one matrix."""

    outputs: tuple[float, ...] = (1.0,)
    input: float = 1.0
    follows_activation: bool = False


ATTENDING = math.sqrt(SCORE_DEVIATION)  # of queries and of keys
QUERY_OR_KEY = ("q_proj", "k_proj", "query", "key")


class SyntheticWeights:
    """The weights that belong to a configuration and a seed."""

    def __init__(self, config: Blip2Config, seed: int) -> None:
        self._seed = seed
        self._token = LOGIT_DEVIATION / math.sqrt(config.text.hidden_size)
        self._layers = {"vision_model": config.vision.num_layers, "language_model": config.text.num_layers}
        self._tables = {
            "query_tokens": 1.0,
            "vision_model.embeddings.class_embedding": 1.0,
            "vision_model.embeddings.position_embedding": POSITION_SHARE,
            "language_model.model.decoder.embed_tokens.weight": self._token,
            "language_model.model.decoder.embed_positions.weight": self._token * POSITION_SHARE,
        }

    def pieces(self, name: str, shape: Shape) -> Iterator[Callable[[], np.ndarray]]:
        """Returns functions that make the tensor's consecutive parts, f32; they may run in any order and thread."""
        rows, width = shape[0], math.prod(shape[1:])
        step = max(1, PIECE_VALUES // width)
        for first in range(0, rows, step):
            yield partial(self._piece, name, shape, first, min(first + step, rows))

    def _piece(self, name: str, shape: Shape, first: int, last: int) -> np.ndarray:
        """Returns the rows from `first` to `last`."""
        key = hashlib.sha256(f"{self._seed} {name} {shape} {first}".encode()).digest()
        random = np.random.Generator(np.random.SFC64(int.from_bytes(key, "little")))
        module, _, kind = name.rpartition(".")
        if name in self._tables:
            return _normal(random, (last - first, *shape[1:]), self._tables[name])
        if "norm" in module.lower():
            return _norm_weight(random, module, shape[0]) if kind == "weight" else _normal(random, shape, BIAS_SHARE)
        linear = self._linear(module)
        if kind == "bias":
            return _bias(random, linear, shape[0])
        return _rows(random, linear, shape, first, last)

    def _linear(self, module: str) -> Linear:
        root, _, path = module.partition(".")
        block, _, last = path.removesuffix(".dense").rpartition(".")
        if module == "language_projection":
            return Linear((self._token,))
        if last == "qkv":
            return Linear((ATTENDING, ATTENDING, 1.0))
        if last in QUERY_OR_KEY:
            return Linear((ATTENDING,))
        if last in ("projection", "out_proj"):
            return Linear((self._branch(root, path, ATTENTION_SHARE[root]),), CONTEXT_DEVIATION)
        if last == "fc2":
            branch = self._branch(root, path, 1 - ATTENTION_SHARE[root])
            return Linear((branch,), ACTIVATION_DEVIATION, follows_activation=True)
        if last == "output":
            return Linear((QFORMER_BRANCH[block.rpartition(".")[2]],), CONTEXT_DEVIATION)
        if last == "output_query":
            return Linear((QFORMER_BRANCH[last],), ACTIVATION_DEVIATION, follows_activation=True)
        return Linear()

    def _branch(self, root: str, path: str, share: float) -> float:
        """Returns the deviation that attention or MLP adds to the residual stream, so that it grows evenly."""
        start = {"vision_model": 1.0, "language_model": self._token}[root] * math.hypot(1.0, POSITION_SHARE)
        layer, layers = int(re.findall(r"\d+", path)[0]), self._layers[root]
        before = start * RESIDUAL_GROWTH[root] ** (layer / layers)
        return before * math.sqrt(share * (RESIDUAL_GROWTH[root] ** (2 / layers) - 1))


def _normal(random: np.random.Generator, shape: Shape, deviation: float) -> np.ndarray:
    values = random.standard_normal(shape, np.float32)
    values *= np.float32(deviation)
    return values


def _norm_weight(random: np.random.Generator, module: str, size: int) -> np.ndarray:
    """Draws positive weights with a mean square of 1 and a few outliers.

    In the last norm the signs are mixed: the last token's embedding, which is part of the state there, then meets
    itself in the output layer with as many negative as positive weights, and is no more likely than any other.
    """
    weight = np.exp(_normal(random, (size,), NORM_SPREAD))
    at = random.choice(size, max(1, size // OUTLIER_EVERY), replace=False)
    weight[at] = random.uniform(*OUTLIERS, len(at)) * min(1.0, math.sqrt(size / OUTLIER_WIDTH))
    weight /= np.sqrt(np.mean(weight**2))
    if module.endswith("decoder.final_layer_norm"):
        weight *= random.choice(np.array([-1, 1], np.float32), size)
    return weight


def _bias(random: np.random.Generator, linear: Linear, size: int) -> np.ndarray:
    """Draws a bias. A ViT's keys have none: their part of the stacked bias is zero, as in the published checkpoint."""
    outputs = linear.outputs if len(linear.outputs) == 1 else (linear.outputs[0], 0.0, linear.outputs[2])
    deviations = np.repeat(np.float32(outputs), size // len(outputs))
    return _normal(random, (size,), BIAS_SHARE) * deviations


def _rows(random: np.random.Generator, linear: Linear, shape: Shape, first: int, last: int) -> np.ndarray:
    rows, width = shape[0], math.prod(shape[1:])
    spread = np.exp(_normal(random, (last - first,), ROW_SPREAD) - np.float32(ROW_SPREAD**2))
    deviations = np.repeat(np.float32(linear.outputs), rows // len(linear.outputs))[first:last]
    values = random.standard_normal((last - first, width), np.float32)
    if linear.follows_activation:
        values -= values.mean(axis=1, keepdims=True)
    values *= (spread * deviations / np.float32(linear.input * math.sqrt(width)))[:, None]
    return values
