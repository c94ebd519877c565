"""The part of `config.json` that the graphs need, with the defaults of transformers for absent keys.

The published configuration leaves most keys out, so the defaults below are part of the format. Settings that the
graphs cannot express are refused here by name, so that they never compute something else in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blip2_export.errors import ExportError

Json = dict[str, Any]


@dataclass(frozen=True)
class VisionConfig:
    """Dimensions of the ViT."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    qkv_bias: bool

    @property
    def num_tokens(self) -> int:
        """Patches plus the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class QFormerConfig:
    """Dimensions of the Q-Former."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float
    cross_attention_frequency: int
    num_query_tokens: int

    def has_cross_attention(self, layer: int) -> bool:
        """Returns whether a layer attends to the image."""
        return layer % self.cross_attention_frequency == 0


@dataclass(frozen=True)
class TextConfig:
    """Dimensions and token ids of the OPT decoder."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    max_positions: int
    has_bias: bool
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class Blip2Config:
    """A BLIP-2 with an OPT decoder."""

    vision: VisionConfig
    qformer: QFormerConfig
    text: TextConfig
    image_token_id: int | None


def parse_config(document: Json) -> Blip2Config:
    """Reads the content of `config.json`.

    Raises:
        ExportError: the checkpoint is not a BLIP-2 that these graphs can express.
    """
    if document.get("model_type", "blip-2") != "blip-2":
        raise ExportError(f"config.json: model_type is {document['model_type']!r}; only 'blip-2' is supported")
    text = _text(_part(document, "text_config"))
    _require("config", document, "use_decoder_only_language_model", True, True)
    vision = _vision(_part(document, "vision_config"))
    qformer = _qformer(_part(document, "qformer_config"), document)
    return Blip2Config(vision, qformer, text, _image_token_id(document, text.vocab_size))


def _part(document: Json, key: str) -> Json:
    part = document.get(key) or {}
    if not isinstance(part, dict):
        raise ExportError(f"config.json: {key} is {part!r}, not an object")
    return part


def _image_token_id(document: Json, vocab_size: int) -> int | None:
    """Reads the image token's id: None in older checkpoints. It is never embedded, but must not stand for a word."""
    value = document.get("image_token_index", document.get("image_token_id"))
    if value is not None and not (_is_count(value) and value < vocab_size):
        raise ExportError(f"config.json: image_token_index is {value!r}, no id below vocab_size {vocab_size}")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _size(part: str, values: Json, key: str, default: int) -> int:
    """Reads a dimension: a whole number above zero."""
    value = values.get(key, default)
    if not _is_count(value) or value == 0:
        raise ExportError(f"config.json: {part}.{key} is {value!r}; it must be a whole number above 0")
    return value


def _eps(part: str, values: Json, default: float) -> float:
    value = values.get("layer_norm_eps", default)
    if not isinstance(value, float) or not 0 < value < 1:
        raise ExportError(f"config.json: {part}.layer_norm_eps is {value!r}; it must lie between 0 and 1")
    return value


def _flag(part: str, values: Json, key: str) -> bool:
    value = values.get(key, True)
    if not isinstance(value, bool):
        raise ExportError(f"config.json: {part}.{key} is {value!r}; it must be true or false")
    return value


def _require(part: str, values: Json, key: str, default: object, supported: object) -> None:
    value = values.get(key, default)
    if value != supported:
        raise ExportError(f"config.json: {part}.{key} is {value!r}; only {supported!r} is supported")


def _heads_divide(part: str, hidden_size: int, num_heads: int) -> None:
    if hidden_size % num_heads:
        raise ExportError(f"config.json: {part} hidden_size {hidden_size} is no multiple of its {num_heads} heads")


def _square(part: str, key: str, value: object) -> int:
    """Reads a size that is given as one number or as two equal ones."""
    sides = value if isinstance(value, list) else [value]
    if len({str(side) for side in sides}) != 1 or not _is_count(sides[0]) or sides[0] == 0:
        raise ExportError(f"config.json: {part}.{key} is {value!r}; only one number (a square) is supported")
    return sides[0]


def _vision(values: Json) -> VisionConfig:
    part = "vision_config"
    _require(part, values, "hidden_act", "gelu", "gelu")
    config = VisionConfig(
        hidden_size=_size(part, values, "hidden_size", 1408),
        intermediate_size=_size(part, values, "intermediate_size", 6144),
        num_layers=_size(part, values, "num_hidden_layers", 39),
        num_heads=_size(part, values, "num_attention_heads", 16),
        image_size=_square(part, "image_size", values.get("image_size", 224)),
        patch_size=_square(part, "patch_size", values.get("patch_size", 14)),
        layer_norm_eps=_eps(part, values, 1e-6),
        qkv_bias=_flag(part, values, "qkv_bias"),
    )
    _heads_divide(part, config.hidden_size, config.num_heads)
    if config.patch_size > config.image_size:
        raise ExportError(f"config.json: {part}.patch_size {config.patch_size} exceeds image_size {config.image_size}")
    return config


def _qformer(values: Json, document: Json) -> QFormerConfig:
    _require("qformer_config", values, "hidden_act", "gelu", "gelu")
    _require("qformer_config", values, "use_qformer_text_input", False, False)
    part = "qformer_config"
    config = QFormerConfig(
        hidden_size=_size(part, values, "hidden_size", 768),
        intermediate_size=_size(part, values, "intermediate_size", 3072),
        num_layers=_size(part, values, "num_hidden_layers", 12),
        num_heads=_size(part, values, "num_attention_heads", 12),
        layer_norm_eps=_eps(part, values, 1e-12),
        cross_attention_frequency=_size(part, values, "cross_attention_frequency", 2),
        num_query_tokens=_size("config", document, "num_query_tokens", 32),
    )
    _heads_divide(part, config.hidden_size, config.num_heads)
    return config


def _text(values: Json) -> TextConfig:
    if values.get("model_type", "opt") != "opt":
        raise ExportError(
            f"config.json: text_config.model_type is {values['model_type']!r}; only OPT is supported "
            "(Flan-T5 checkpoints are not)"
        )
    for key, supported in (
        ("activation_function", "relu"),
        ("do_layer_norm_before", True),
        ("_remove_final_layer_norm", False),
        ("layer_norm_elementwise_affine", True),
        ("tie_word_embeddings", True),
    ):
        _require("text_config", values, key, supported, supported)
    part = "text_config"
    vocab_size = _size(part, values, "vocab_size", 50272)
    config = TextConfig(
        hidden_size=_size(part, values, "hidden_size", 768),
        ffn_size=_size(part, values, "ffn_dim", 3072),
        num_layers=_size(part, values, "num_hidden_layers", 12),
        num_heads=_size(part, values, "num_attention_heads", 12),
        vocab_size=vocab_size,
        max_positions=_size(part, values, "max_position_embeddings", 2048),
        has_bias=_flag(part, values, "enable_bias"),
        bos_token_id=_token_id(values, "bos_token_id", 2, vocab_size),
        eos_token_id=_token_id(values, "eos_token_id", 2, vocab_size),
        pad_token_id=_token_id(values, "pad_token_id", 1, vocab_size),
    )
    _heads_divide("text_config", config.hidden_size, config.num_heads)
    if values.get("word_embed_proj_dim") is not None:
        _require("text_config", values, "word_embed_proj_dim", config.hidden_size, config.hidden_size)
    if config.head_dim % 8:
        raise ExportError(
            f"config.json: text_config head_dim {config.head_dim} is no multiple of 8, "
            "which the attention operator GroupQueryAttention needs"
        )
    return config


def _token_id(values: Json, key: str, default: int, vocab_size: int) -> int:
    value = values.get(key, default)
    ids = value if isinstance(value, list) else [value]
    if len(ids) != 1 or not _is_count(ids[0]):
        raise ExportError(f"config.json: text_config.{key} is {value!r}; exactly one id is supported")
    if ids[0] >= vocab_size:
        raise ExportError(f"config.json: text_config.{key} is {ids[0]}, beyond the vocab_size of {vocab_size}")
    return ids[0]
