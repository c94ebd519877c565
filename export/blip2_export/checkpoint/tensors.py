"""Lists the names and shapes of all tensors of a BLIP-2 OPT checkpoint, from its configuration alone.

The order is that of transformers' state dict, in which the hub's shards are cut. The output layer is tied to
the token embedding and not stored. `stage_of` says which graph a tensor belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blip2_export.checkpoint.config import Blip2Config, QFormerConfig, TextConfig, VisionConfig

    Shape = tuple[int, ...]
    Entries = Iterator[tuple[str, Shape]]

# OPT's position table starts with two rows that no token uses.
POSITION_OFFSET = 2
STAGE_ROOTS = {"vision_model.": "vision_encoder", "language_model.": "decoder"}


def tensor_shapes(config: Blip2Config) -> dict[str, Shape]:
    """Returns the shape of every tensor by name, in checkpoint order. Linear weights are [out, in]."""
    return dict(_tensors(config))


def stage_of(name: str) -> str:
    """Returns the graph that reads a tensor; query tokens and language projection belong to the Q-Former."""
    return next((stage for root, stage in STAGE_ROOTS.items() if name.startswith(root)), "qformer")


def _tensors(config: Blip2Config) -> Entries:
    yield "query_tokens", (1, config.qformer.num_query_tokens, config.qformer.hidden_size)
    yield from _vision_model(config.vision)
    yield from _qformer(config.qformer, config.vision.hidden_size)
    yield from _linear("language_projection", config.text.hidden_size, config.qformer.hidden_size)
    yield from _decoder(config.text)


def _linear(name: str, out: int, into: int, *, has_bias: bool = True) -> Entries:
    yield f"{name}.weight", (out, into)
    if has_bias:
        yield f"{name}.bias", (out,)


def _norm(name: str, size: int) -> Entries:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _vision_model(vision: VisionConfig) -> Entries:
    width, inner, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    root = "vision_model.embeddings"
    yield f"{root}.class_embedding", (1, 1, width)
    yield f"{root}.position_embedding", (1, vision.num_tokens, width)
    yield f"{root}.patch_embedding.weight", (width, 3, patch, patch)
    yield f"{root}.patch_embedding.bias", (width,)
    for layer in range(vision.num_layers):
        root = f"vision_model.encoder.layers.{layer}"
        yield from _linear(f"{root}.self_attn.qkv", 3 * width, width, has_bias=vision.qkv_bias)
        yield from _linear(f"{root}.self_attn.projection", width, width)
        yield from _norm(f"{root}.layer_norm1", width)
        yield from _linear(f"{root}.mlp.fc1", inner, width)
        yield from _linear(f"{root}.mlp.fc2", width, inner)
        yield from _norm(f"{root}.layer_norm2", width)
    yield from _norm("vision_model.post_layernorm", width)


def _qformer(qformer: QFormerConfig, image_width: int) -> Entries:
    size, inner = qformer.hidden_size, qformer.intermediate_size
    yield from _norm("qformer.layernorm", size)
    for layer in range(qformer.num_layers):
        root = f"qformer.encoder.layer.{layer}"
        yield from _bert_attention(f"{root}.attention", size, size)
        if qformer.has_cross_attention(layer):
            yield from _bert_attention(f"{root}.crossattention", size, image_width)
        yield from _linear(f"{root}.intermediate_query.dense", inner, size)
        yield from _linear(f"{root}.output_query.dense", size, inner)
        yield from _norm(f"{root}.output_query.LayerNorm", size)


def _bert_attention(name: str, size: int, source: int) -> Entries:
    """Lists an attention of `size` to states of width `source`, with the output layer and LayerNorm of BERT."""
    yield from _linear(f"{name}.attention.query", size, size)
    yield from _linear(f"{name}.attention.key", size, source)
    yield from _linear(f"{name}.attention.value", size, source)
    yield from _linear(f"{name}.output.dense", size, size)
    yield from _norm(f"{name}.output.LayerNorm", size)


def _decoder(text: TextConfig) -> Entries:
    width, inner = text.hidden_size, text.ffn_size
    root = "language_model.model.decoder"
    yield f"{root}.embed_tokens.weight", (text.vocab_size, width)
    yield f"{root}.embed_positions.weight", (text.max_positions + POSITION_OFFSET, width)
    yield from _norm(f"{root}.final_layer_norm", width)
    for layer in range(text.num_layers):
        name = f"{root}.layers.{layer}"
        for part in ("k", "v", "q", "out"):
            yield from _linear(f"{name}.self_attn.{part}_proj", width, width, has_bias=text.has_bias)
        yield from _norm(f"{name}.self_attn_layer_norm", width)
        yield from _linear(f"{name}.fc1", inner, width, has_bias=text.has_bias)
        yield from _linear(f"{name}.fc2", width, inner, has_bias=text.has_bias)
        yield from _norm(f"{name}.final_layer_norm", width)
