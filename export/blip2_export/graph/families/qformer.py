"""Q-Former: image_embeds -> query_output [batch, queries, hidden], image_prefix [batch, queries, width].

Post-norm layers as in BERT: self-attention, cross-attention to the image in some layers, feed-forward; then
the projection to the decoder's width. All that precedes the first cross-attention is the same for every
image and is computed here, in f64, instead of in the graph.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from blip2_export.graph.families import weights

if TYPE_CHECKING:
    from blip2_export.checkpoint.reader import TensorSource
    from blip2_export.graph.builder import GraphBuilder
    from blip2_export.graph.linear import Linear

ROOT = "qformer"


class QFormer:
    """Writes the graph of the Q-Former and of the language projection."""

    def __init__(self, checkpoint: TensorSource, builder: GraphBuilder, linear: Linear) -> None:
        self.checkpoint = checkpoint
        self.builder = builder
        self.linear = linear
        self.config = checkpoint.config.qformer

    def write(self) -> None:
        """Adds the whole graph to the builder."""
        build, config = self.builder, self.config
        width = self.checkpoint.config.vision.hidden_size
        image = build.reshape("image_embeds", [-1, width], "image_embeds/Flat")
        hidden = ""
        for layer in range(config.num_layers):
            name = f"{ROOT}.encoder.layer.{layer}"
            hidden = self._folded_start(name) if layer == 0 else self._self_attention(hidden, f"{name}.attention")
            if config.has_cross_attention(layer):
                hidden = self._cross_attention(hidden, image, f"{name}.crossattention")
            hidden = self._feed_forward(hidden, name)
        build.reshape(hidden, [-1, config.num_query_tokens, config.hidden_size], "query_output")
        self._project(hidden)

    def _project(self, hidden: str) -> None:
        out, name = self.checkpoint.config.text.hidden_size, "language_projection"
        prefix = self._linear(hidden, name, out, self.config.hidden_size)
        self.builder.reshape(prefix, [-1, self.config.num_query_tokens, out], "image_prefix")

    def _folded_start(self, name: str) -> str:
        """Returns the state before the first cross-attention, once per image: [batch * queries, hidden]."""
        build, config = self.builder, self.config
        folded = build.constant(f"{name}.attention/Folded", self._fold(f"{name}.attention").astype(np.float32))
        expanded = build.once_per_row(folded, "image_embeds", name)
        return build.reshape(expanded, [-1, config.hidden_size], f"{name}/Flat")

    def _fold(self, name: str) -> np.ndarray:
        """LayerNorm(query_tokens) and the whole first self-attention: f64 [1, queries, hidden]."""
        config, size = self.config, self.config.hidden_size
        tokens = self.checkpoint.tensor("query_tokens", (1, config.num_query_tokens, size))[0].astype(np.float64)
        x = self._folded_norm(tokens, f"{ROOT}.layernorm")
        query, key, value = (
            self._heads(self._folded_linear(x, f"{name}.attention.{part}")) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(size // config.num_heads)
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        context = (weight @ value).transpose(1, 0, 2).reshape(-1, size)
        return self._folded_norm(self._folded_linear(context, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")[
            None
        ]

    def _heads(self, x: np.ndarray) -> np.ndarray:
        """[queries, hidden] -> [heads, queries, head_dim]."""
        return x.reshape(len(x), self.config.num_heads, -1).transpose(1, 0, 2)

    def _folded_linear(self, x: np.ndarray, name: str) -> np.ndarray:
        size = self.config.hidden_size
        weight, bias = weights.linear(self.checkpoint, name, size, size)
        return x @ weight.T.astype(np.float64) + bias

    def _folded_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight, bias = weights.norm(self.checkpoint, name, self.config.hidden_size)
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config.layer_norm_eps)
        return centred / deviation * weight + bias

    def _self_attention(self, x: str, name: str) -> str:
        size = self.config.hidden_size
        parts = [f"{name}.attention.{part}" for part in ("query", "key", "value")]
        qkv = self._stacked_rows(x, parts, f"{name}.attention/qkv", size, self.config.num_query_tokens)
        return self._attend(qkv, x, name)

    def _cross_attention(self, x: str, image: str, name: str) -> str:
        vision, config = self.checkpoint.config.vision, self.config
        size = config.hidden_size
        query = self._linear(x, f"{name}.attention.query", size, size)
        query = self.builder.reshape(query, [-1, config.num_query_tokens, size], f"{name}.attention.query/Rows")
        parts = [f"{name}.attention.{part}" for part in ("key", "value")]
        kv = self._stacked_rows(image, parts, f"{name}.attention/kv", vision.hidden_size, vision.num_tokens)
        return self._attend([query, *kv], x, name)

    def _stacked_rows(self, x: str, parts: list[str], name: str, into: int, positions: int) -> list[str]:
        """Layers that read the same tensor, as one product: a [batch, positions, hidden] for each of them."""
        build, size = self.builder, self.config.hidden_size
        layer = weights.stacked(weights.linear(self.checkpoint, part, size, into) for part in parts)
        product = self.linear(x, name, *layer)
        rows = build.reshape(product, [-1, positions, len(parts) * size], f"{name}/Rows")
        return build.op_many("Split", [rows], parts, name=f"{name}/Split", axis=-1, num_outputs=len(parts))

    def _attend(self, qkv: list[str], x: str, name: str) -> str:
        build, size, heads = self.builder, self.config.hidden_size, self.config.num_heads
        context = build.attention(*qkv, f"{name}.attention", heads, size // heads)
        context = build.reshape(context, [-1, size], f"{name}.attention/Flat")
        return self._output(context, x, f"{name}.output", size)

    def _feed_forward(self, x: str, name: str) -> str:
        config = self.config
        inner = self._linear(x, f"{name}.intermediate_query.dense", config.intermediate_size, config.hidden_size)
        inner = self.builder.gelu(inner, f"{name}.intermediate_query.intermediate_act_fn")
        return self._output(inner, x, f"{name}.output_query", config.intermediate_size)

    def _output(self, x: str, residual: str, name: str, into: int) -> str:
        """Dense, residual, LayerNorm: how every part of a BERT layer ends."""
        size = self.config.hidden_size
        dense = self._linear(x, f"{name}.dense", size, into)
        total = self.builder.op("Add", [dense, residual], f"{name}/Residual")
        layer = weights.norm(self.checkpoint, f"{name}.LayerNorm", size)
        return self.builder.layer_norm(total, f"{name}.LayerNorm", *layer, self.config.layer_norm_eps)

    def _linear(self, x: str, name: str, out: int, into: int) -> str:
        return self.linear(x, name, *weights.linear(self.checkpoint, name, out, into))
