"""config.json: defaults, and refusals by name."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_checkpoint

from blip2_export.checkpoint.config import parse_config
from blip2_export.errors import ExportError


def test_an_empty_configuration_has_the_defaults_of_transformers() -> None:
    config = parse_config({})
    assert (config.vision.hidden_size, config.vision.num_layers, config.vision.num_tokens) == (1408, 39, 257)
    assert (config.vision.layer_norm_eps, config.qformer.layer_norm_eps) == (1e-6, 1e-12)
    assert (config.qformer.hidden_size, config.qformer.num_layers, config.qformer.num_query_tokens) == (
        768,
        12,
        32,
    )
    assert (config.text.hidden_size, config.text.vocab_size, config.text.max_positions) == (768, 50272, 2048)
    assert (config.text.bos_token_id, config.text.eos_token_id, config.text.pad_token_id) == (2, 2, 1)
    assert config.image_token_id is None


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("", "model_type", "llava", "model_type is 'llava'"),
        ("text_config", "model_type", "t5", "Flan-T5"),
        ("text_config", "do_layer_norm_before", False, "do_layer_norm_before is False"),
        ("text_config", "word_embed_proj_dim", 16, "word_embed_proj_dim is 16"),
        ("text_config", "activation_function", "gelu", "activation_function is 'gelu'"),
        ("text_config", "tie_word_embeddings", False, "tie_word_embeddings is False"),
        ("text_config", "num_attention_heads", 8, "head_dim 4 is no multiple of 8"),
        ("text_config", "num_attention_heads", 5, "no multiple of its 5 heads"),
        ("text_config", "eos_token_id", [2, 3], "eos_token_id is [2, 3]"),
        ("vision_config", "hidden_act", "quick_gelu", "vision_config.hidden_act is 'quick_gelu'"),
        ("vision_config", "image_size", [28, 14], "image_size is [28, 14]"),
        ("qformer_config", "hidden_act", "relu", "qformer_config.hidden_act is 'relu'"),
        ("qformer_config", "use_qformer_text_input", True, "use_qformer_text_input is True"),
    ],
)
def test_an_unsupported_configuration_is_refused_by_name(part: str, key: str, value: object, message: str) -> None:
    document: dict[str, Any] = tiny_checkpoint.config()
    (document[part] if part else document)[key] = value
    with pytest.raises(ExportError) as refused:
        parse_config(document)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "hidden_size", "wide"),
        ("text_config", "num_hidden_layers", 0),
        ("text_config", "vocab_size", 2.5),
        ("text_config", "enable_bias", 1),
        ("text_config", "eos_token_id", 272),
        ("vision_config", "image_size", True),
        ("vision_config", "patch_size", 29),
        ("vision_config", "layer_norm_eps", "1e-6"),
        ("qformer_config", "cross_attention_frequency", 0),
        ("", "num_query_tokens", -1),
        ("", "image_token_index", 272),
        ("", "text_config", []),
        ("", "vision_config", "large"),
        ("", "use_decoder_only_language_model", False),
    ],
)
def test_a_field_without_sense_is_refused_by_name(part: str, key: str, value: object) -> None:
    document: dict[str, Any] = tiny_checkpoint.config()
    (document[part] if part else document)[key] = value
    if value == []:
        document[key] = [1]
    with pytest.raises(ExportError, match=rf"config\.json: .*{key}"):
        parse_config(document)
