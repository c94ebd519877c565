"""Defines the signatures of the three graphs as data: names, types, axes, and the shapes at which they are checked.

The graph builders declare their inputs and outputs from here, the manifest takes its names from here, and the
verifier runs the shapes listed in `check_at`. docs/bundle.md is the same table in prose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip2_export.checkpoint.config import Blip2Config, TextConfig

OPSET = 21
STAGES = ("vision_encoder", "qformer", "decoder")

PAST_TEMPLATE = "past_key_values.{layer}.{kind}"
PRESENT_TEMPLATE = "present.{layer}.{kind}"
KV_KINDS = ("key", "value")
KV_LAYOUT = ("rows", "heads", "max_len", "head_dim")
# By target. The attention operator of the CUDA provider takes f16 only.
KV_DTYPES = {"cpu": "float32", "cuda": "float16", "tensorrt": "float16"}

Axis = str | int


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type (numpy's name) and axes of a graph input or output; a string is a dynamic axis."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Contract:
    """The inputs and outputs of one graph."""

    stage: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def file(self) -> str:
        """The graph's file name in the bundle."""
        return f"{self.stage}.onnx"


@dataclass(frozen=True)
class Ragged:
    """A decoder check: rows of these lengths are prefilled, then decoded together for some steps."""

    text_lengths: tuple[int, ...]
    decode_steps: int


# One shape proves nothing: alone, a batch of unequal rows, the longest row not first, and a bare end-of-
# prompt.
DECODER_CHECK_AT = (Ragged((9,), 3), Ragged((9, 1, 23), 3), Ragged((5, 5), 2), Ragged((1, 12, 3, 30, 2), 2))
IMAGE_CHECK_AT = (1, 2, 3)


def vision_encoder(config: Blip2Config) -> Contract:
    """pixel_values [batch, 3, height, width] -> image_embeds [batch, num_tokens, vision hidden]."""
    vision = config.vision
    side = vision.image_size
    return Contract(
        "vision_encoder",
        (TensorSpec("pixel_values", "float32", ("batch", 3, side, side)),),
        (TensorSpec("image_embeds", "float32", ("batch", vision.num_tokens, vision.hidden_size)),),
    )


def qformer(config: Blip2Config) -> Contract:
    """image_embeds -> query_output [batch, queries, hidden], image_prefix [batch, queries, width]."""
    vision, queries = config.vision, config.qformer.num_query_tokens
    return Contract(
        "qformer",
        (TensorSpec("image_embeds", "float32", ("batch", vision.num_tokens, vision.hidden_size)),),
        (
            TensorSpec("query_output", "float32", ("batch", queries, config.qformer.hidden_size)),
            TensorSpec("image_prefix", "float32", ("batch", queries, config.text.hidden_size)),
        ),
    )


def decoder(config: Blip2Config, kv_dtype: str) -> Contract:
    """Token ids, image prefix and KV buffers -> logits [rows, k, vocab] and the same KV buffers."""
    text = config.text
    return Contract(
        "decoder",
        (
            TensorSpec("input_ids", "int64", ("rows", "seq")),
            TensorSpec("image_prefix", "float32", ("rows", "prefix", text.hidden_size)),
            TensorSpec("position_ids", "int64", ("rows", "prefix_seq")),
            TensorSpec("seqlens_k", "int32", ("rows",)),
            TensorSpec("total_sequence_length", "int32", ()),
            TensorSpec("logits_index", "int64", ("rows", "k")),
            *_kv(text, PAST_TEMPLATE, kv_dtype),
        ),
        (TensorSpec("logits", "float32", ("rows", "k", text.vocab_size)), *_kv(text, PRESENT_TEMPLATE, kv_dtype)),
    )


def _kv(text: TextConfig, template: str, dtype: str) -> list[TensorSpec]:
    axes = ("rows", text.num_heads, "max_len", text.head_dim)
    return [
        TensorSpec(template.format(layer=layer, kind=kind), dtype, axes)
        for layer in range(text.num_layers)
        for kind in KV_KINDS
    ]


def contracts(config: Blip2Config, target: str) -> dict[str, Contract]:
    """Returns the contracts of a bundle by stage. Inputs and outputs are f32 on every target except the KV buffers."""
    return {
        "vision_encoder": vision_encoder(config),
        "qformer": qformer(config),
        "decoder": decoder(config, KV_DTYPES[target]),
    }
