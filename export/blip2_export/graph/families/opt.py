"""OPT decoder: one graph for prefill, continuation and decode.

input_ids [rows, seq] and image_prefix [rows, prefix, hidden] -> logits [rows, k, vocab], with the KV buffers
[rows, heads, max_len, head_dim] read and extended in place. Rows are padded on the right; `seqlens_k` alone
tells where each row ends, so there is no attention mask.

On the CPU the hidden states are [tokens, hidden], as everywhere. Attention needs them by row, [rows, prefix_seq,
hidden], and a graph of a GPU leaves them so: no shape has to be computed, which would happen on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blip2_export.checkpoint.reader import EMBED_POSITIONS, EMBED_TOKENS
from blip2_export.graph.builder import MICROSOFT
from blip2_export.graph.contract import KV_KINDS, PAST_TEMPLATE, PRESENT_TEMPLATE
from blip2_export.graph.families import weights
from blip2_export.graph.linear import tied_embedding

if TYPE_CHECKING:
    from blip2_export.checkpoint.reader import TensorSource
    from blip2_export.graph.builder import GraphBuilder
    from blip2_export.graph.linear import Linear

ROOT = "language_model.model.decoder"
LAYER_NORM_EPS = 1e-5  # not configurable in OPT


class Decoder:
    """Writes the graph of the decoder."""

    def __init__(self, checkpoint: TensorSource, builder: GraphBuilder, linear: Linear) -> None:
        self.checkpoint = checkpoint
        self.builder = builder
        self.linear = linear
        self.config = checkpoint.config.text
        table = checkpoint.tensor(EMBED_TOKENS, (self.config.vocab_size, self.config.hidden_size))
        self.tokens = tied_embedding(builder, linear, EMBED_TOKENS, table)

    def write(self) -> None:
        """Adds the whole graph to the builder."""
        build, hidden, rows, qkv_shape = self.builder, self._embeddings(), "", ""
        if not build.on_gpu:
            rows = build.op("Shape", ["position_ids"], f"{ROOT}/RowsAndPositions")
            qkv_shape = build.op("Concat", [rows, build.ints(3 * self.config.hidden_size)], f"{ROOT}/QkvShape", axis=0)
        for layer in range(self.config.num_layers):
            hidden = self._block(hidden, layer, qkv_shape)
        self._logits(hidden, rows)

    def _embeddings(self) -> str:
        """Image prefix, then tokens, each with its position -> [rows, prefix_seq, hidden], flattened on the CPU."""
        build = self.builder
        tokens = self.tokens.embed("input_ids", f"{ROOT}.embed_tokens")
        prefix = build.enter("image_prefix", "image_prefix/Typed")
        joined = build.op("Concat", [prefix, tokens], f"{ROOT}/Inputs", axis=1)
        name = f"{ROOT}.embed_positions"
        table = build.floats(EMBED_POSITIONS, weights.positions(self.checkpoint))
        positions = build.op("Gather", [table, "position_ids"], name, axis=0)
        placed = build.op("Add", [joined, positions], f"{ROOT}/Placed")
        return self._flat(placed, f"{ROOT}/Flat")

    def _flat(self, x: str, name: str) -> str:
        """[rows, prefix_seq, hidden] as the layers read it."""
        return x if self.builder.on_gpu else self.builder.tokens(x, self.config.hidden_size, name)

    def _block(self, x: str, layer: int, qkv_shape: str) -> str:
        build, config, name = self.builder, self.config, f"{ROOT}.layers.{layer}"
        inner = self._norm(x, f"{name}.self_attn_layer_norm")
        inner = self._self_attention(inner, layer, f"{name}.self_attn", qkv_shape)
        x = build.op("Add", [x, inner], f"{name}.self_attn/Residual")
        inner = self._norm(x, f"{name}.final_layer_norm")
        inner = self._linear(inner, f"{name}.fc1", config.ffn_size, config.hidden_size)
        inner = self.linear.relu(inner, f"{name}.activation_fn")
        inner = self._linear(inner, f"{name}.fc2", config.hidden_size, config.ffn_size)
        return build.op("Add", [x, inner], f"{name}/Residual")

    def _self_attention(self, x: str, layer: int, name: str, qkv_shape: str) -> str:
        build, width = self.builder, self.config.hidden_size
        parts = (
            weights.linear(self.checkpoint, f"{name}.{part}_proj", width, width, has_bias=self.config.has_bias)
            for part in "qkv"
        )
        qkv = self.linear(x, f"{name}.qkv", *weights.stacked(parts))
        if qkv_shape:
            qkv = build.op("Reshape", [qkv, qkv_shape], f"{name}.qkv/Rows")
        context = self._flat(self._attend(qkv, layer, name), f"{name}/Flat")
        return self._linear(context, f"{name}.out_proj", width, width)

    def _attend(self, qkv: str, layer: int, name: str) -> str:
        config = self.config
        past = [PAST_TEMPLATE.format(layer=layer, kind=kind) for kind in KV_KINDS]
        present = [PRESENT_TEMPLATE.format(layer=layer, kind=kind) for kind in KV_KINDS]
        return self.builder.op_many(
            "GroupQueryAttention",
            [qkv, "", "", *past, "seqlens_k", "total_sequence_length"],
            [name, *present],
            name=name,
            domain=MICROSOFT,
            num_heads=config.num_heads,
            kv_num_heads=config.num_heads,
            scale=config.head_dim**-0.5,
            do_rotary=0,
        )[0]

    def _logits(self, hidden: str, rows: str) -> str:
        """Computes logits at the requested positions only: they alone pass the last norm and the output layer."""
        build, config, name = self.builder, self.config, "language_model.lm_head"
        if not build.on_gpu:
            shape = build.op("Concat", [rows, build.ints(config.hidden_size)], f"{name}/HiddenShape", axis=0)
            hidden = build.op("Reshape", [hidden, shape], f"{name}/Hidden")
        index = build.op("Unsqueeze", ["logits_index", build.ints(-1)], f"{name}/Index")
        wanted = build.op("GatherND", [hidden, index], f"{name}/Wanted", batch_dims=1)
        if build.on_gpu:
            return self.tokens.logits(self._norm(wanted, f"{ROOT}.final_layer_norm"), "logits")
        flat = build.reshape(wanted, [-1, config.hidden_size], f"{name}/Flat")
        logits = self.tokens.logits(self._norm(flat, f"{ROOT}.final_layer_norm"), name)
        asked = build.op("Shape", ["logits_index"], f"{name}/Asked")
        out = build.op("Concat", [asked, build.ints(config.vocab_size)], f"{name}/Shape", axis=0)
        return build.op("Reshape", [logits, out], "logits")

    def _linear(self, x: str, name: str, out: int, into: int) -> str:
        layer = weights.linear(self.checkpoint, name, out, into, has_bias=self.config.has_bias)
        return self.linear(x, name, *layer)

    def _norm(self, x: str, name: str) -> str:
        layer = weights.norm(self.checkpoint, name, self.config.hidden_size)
        return self.builder.layer_norm(x, name, *layer, LAYER_NORM_EPS)
