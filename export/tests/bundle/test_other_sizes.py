"""Nothing is tuned to one model: other sizes, options and files of the same family export as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_checkpoint

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.config import parse_config
from blip2_export.checkpoint.tensors import tensor_shapes
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
# What differs from the tiny checkpoint, by part.
VARIANTS: dict[str, dict[str, Json]] = {
    "small patches, one layer each": {
        "vision_config": {"patch_size": 4, "num_hidden_layers": 1, "num_attention_heads": 6},
        "qformer_config": {"num_hidden_layers": 1},
        "text_config": {"num_hidden_layers": 1},
    },
    "more queries than patches": {
        "": {"num_query_tokens": 23},
        "vision_config": {"patch_size": 14, "hidden_size": 40, "num_attention_heads": 5},
        "qformer_config": {"cross_attention_frequency": 3, "num_hidden_layers": 5, "num_attention_heads": 4},
    },
    "one wide head, no biases, odd widths": {
        "vision_config": {"qkv_bias": False, "intermediate_size": 33, "layer_norm_eps": 1e-5},
        "text_config": {
            "hidden_size": 24,
            "word_embed_proj_dim": 24,
            "num_attention_heads": 1,
            "ffn_dim": 61,
            "enable_bias": False,
        },
    },
    "larger vocabulary, another end, deep decoder": {
        "": {"image_token_index": 301},
        "text_config": {
            "vocab_size": 333,
            "num_hidden_layers": 5,
            "max_position_embeddings": 40,
            "hidden_size": 48,
            "word_embed_proj_dim": 48,
            "num_attention_heads": 2,
            "eos_token_id": 77,
        },
    },
}
# Random weights this few are a hard case for 4 bits; a wrong graph is far below.
PRECISIONS = [("cpu", "int8", 0.99), ("cpu", "int4", 0.9), ("tensorrt", "fp16", 0.9999)]
PROMPT, ANSWER = [2, 50, 77, 261, 9], [14, 30, 7, 21]


def variant_config(variant: dict[str, Json]) -> Json:
    document = tiny_checkpoint.config()
    for part, changes in variant.items():
        (document[part] if part else document).update(changes)
    document["qformer_config"]["encoder_hidden_size"] = document["vision_config"]["hidden_size"]
    return document


@pytest.fixture(scope="module", params=list(VARIANTS), ids=lambda name: name.replace(" ", "_"))
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another size, in f16 and five shards."""
    document = variant_config(VARIANTS[request.param])
    weights = {
        name: tiny_checkpoint.values(name, shape) for name, shape in tensor_shapes(parse_config(document)).items()
    }
    folder = tmp_path_factory.mktemp("variant") / "checkpoint"
    return tiny_checkpoint.write_checkpoint(folder, document, weights, dtype="float16", shards=5)


def logits(model: OnnxBlip2) -> np.ndarray:
    """Of the forced answer: [tokens, vocab]."""
    image_prefix = model.query(model.image_embeds(tiny_checkpoint.pixel_values()))[1]
    return model.teacher_forced(image_prefix, PROMPT, ANSWER)


@pytest.mark.parametrize(("target", "precision", "least"), PRECISIONS)
def test_every_precision_exports_and_stays_near_fp32(
    variant: Path, tmp_path: Path, target: str, precision: str, least: float
) -> None:
    export(ExportOptions(variant, tmp_path / "fp32", precision="fp32"))
    export(ExportOptions(variant, tmp_path / "other", target=target, precision=precision))
    expected, found = (logits(OnnxBlip2(tmp_path / name, threads=1)) for name in ("fp32", "other"))
    cosines = (expected * found).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(found, axis=-1)
    assert cosines.min() > least


@pytest.mark.reference
def test_fp32_equals_transformers(variant: Path, tmp_path: Path) -> None:
    from blip2_export.verification.reference import Reference

    export(ExportOptions(variant, tmp_path / "bundle", precision="fp32"))
    model, reference = OnnxBlip2(tmp_path / "bundle", threads=1), Reference(variant)
    pixels = tiny_checkpoint.pixel_values()
    prefixes = [side.query(side.image_embeds(pixels))[1] for side in (model, reference)]
    np.testing.assert_allclose(*prefixes, rtol=0, atol=1e-4 * np.abs(prefixes[1]).max())
    found, expected = (side.teacher_forced(prefixes[1], PROMPT, ANSWER) for side in (model, reference))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert model.greedy(prefixes[1], PROMPT, 8) == reference.greedy(prefixes[1], PROMPT, 8)
