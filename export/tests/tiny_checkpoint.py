"""A complete BLIP-2 checkpoint of a few thousand weights, made from a seed, for the tests.

All sizes differ from one another, so that a mixed-up dimension cannot go unnoticed. Every weight is a pure
function of its name: the expected numbers in `data/expected.json` need no weights beside them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
MERGES = ["a t", "Ġ t", "Ġt h"]
NEWLINE = "Ċ"


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2 vocabularies, in the order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(byte if byte in printable else next(extra)) for byte in range(256)]


VOCAB = {token: i for i, token in enumerate([*SPECIAL, *byte_alphabet(), "at", "Ġt", "Ġth"])}
IMAGE_TOKEN = len(VOCAB)

CONFIG: Json = {
    "architectures": ["Blip2ForConditionalGeneration"],
    "model_type": "blip-2",
    "num_query_tokens": 4,
    "image_token_index": IMAGE_TOKEN,
    "vision_config": {
        "model_type": "blip_2_vision_model",
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 28,
        "patch_size": 7,
    },
    "qformer_config": {
        "model_type": "blip_2_qformer",
        "hidden_size": 20,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "encoder_hidden_size": 24,
    },
    "text_config": {
        "model_type": "opt",
        "hidden_size": 32,
        "ffn_dim": 52,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "vocab_size": 272,
        "max_position_embeddings": 80,
        "eos_token_id": VOCAB[NEWLINE],
    },
}
PREPROCESSOR: Json = {
    "image_processor_type": "BlipImageProcessor",
    "do_resize": True,
    "size": {"height": 28, "width": 28},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def config() -> Json:
    """A copy of the configuration that a test may change."""
    return copy.deepcopy(CONFIG)


def seeded(name: str, shape: tuple[int, ...], deviation: float, mean: float = 0.0) -> np.ndarray:
    """Uniform f32 numbers that depend on the name alone: raw bits of PCG64, which numpy keeps stable."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    bits = np.random.PCG64(seed).random_raw(math.prod(shape)) >> np.uint64(40)
    uniform = bits.astype(np.float64) / (1 << 23) - 1
    return (uniform * deviation * math.sqrt(3) + mean).astype(np.float32).reshape(shape)


def pixel_values(batch: int = 1) -> np.ndarray:
    """Seeded input of the vision encoder, [batch, 3, 28, 28]."""
    return np.stack([seeded(f"pixels {row}", (3, 28, 28), 1.0) for row in range(batch)])


def tensors(document: Json) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint."""
    return {name: values(name, shape) for name, shape in _shapes(document)}


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this name, at a deviation that keeps activations in range."""
    if name.lower().endswith(("norm.weight", "layer_norm1.weight", "layer_norm2.weight")):
        return seeded(name, shape, 0.2, mean=1.0)
    if len(shape) == 1:
        return seeded(name, shape, 0.2)
    if ("embed" in name and "patch" not in name) or name == "query_tokens":
        return seeded(name, shape, 0.7)
    return seeded(name, shape, 1.5 / math.sqrt(math.prod(shape[1:])))


def _shapes(document: Json) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _vision_shapes(document["vision_config"])
    yield from _qformer_shapes(document)
    yield from _text_shapes(document["text_config"], document["qformer_config"]["hidden_size"])


def _linear(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _vision_shapes(vision: Json) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    root = "vision_model.embeddings"
    yield f"{root}.class_embedding", (1, 1, width)
    yield f"{root}.position_embedding", (1, (vision["image_size"] // patch) ** 2 + 1, width)
    yield f"{root}.patch_embedding.weight", (width, 3, patch, patch)
    yield f"{root}.patch_embedding.bias", (width,)
    for layer in range(vision["num_hidden_layers"]):
        root = f"vision_model.encoder.layers.{layer}"
        yield from _linear(f"{root}.self_attn.qkv", 3 * width, width)
        yield from _linear(f"{root}.self_attn.projection", width, width)
        yield from _norm(f"{root}.layer_norm1", width)
        yield from _linear(f"{root}.mlp.fc1", inner, width)
        yield from _linear(f"{root}.mlp.fc2", width, inner)
        yield from _norm(f"{root}.layer_norm2", width)
    yield from _norm("vision_model.post_layernorm", width)


def _qformer_shapes(document: Json) -> Iterator[tuple[str, tuple[int, ...]]]:
    qformer, image = document["qformer_config"], document["vision_config"]["hidden_size"]
    size, inner = qformer["hidden_size"], qformer["intermediate_size"]
    yield "query_tokens", (1, document["num_query_tokens"], size)
    yield from _norm("qformer.layernorm", size)
    for layer in range(qformer["num_hidden_layers"]):
        root = f"qformer.encoder.layer.{layer}"
        blocks = [("attention", size), ("crossattention", image)] if layer % 2 == 0 else [("attention", size)]
        for block, source in blocks:
            yield from _linear(f"{root}.{block}.attention.query", size, size)
            yield from _linear(f"{root}.{block}.attention.key", size, source)
            yield from _linear(f"{root}.{block}.attention.value", size, source)
            yield from _linear(f"{root}.{block}.output.dense", size, size)
            yield from _norm(f"{root}.{block}.output.LayerNorm", size)
        yield from _linear(f"{root}.intermediate_query.dense", inner, size)
        yield from _linear(f"{root}.output_query.dense", size, inner)
        yield from _norm(f"{root}.output_query.LayerNorm", size)


def _text_shapes(text: Json, qformer_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = text["hidden_size"], text["ffn_dim"]
    yield from _linear("language_projection", width, qformer_size)
    root = "language_model.model.decoder"
    yield f"{root}.embed_tokens.weight", (text["vocab_size"], width)
    yield f"{root}.embed_positions.weight", (text["max_position_embeddings"] + 2, width)
    yield from _norm(f"{root}.final_layer_norm", width)
    for layer in range(text["num_hidden_layers"]):
        name = f"{root}.layers.{layer}"
        for part in ("k", "v", "q", "out"):
            yield from _linear(f"{name}.self_attn.{part}_proj", width, width)
        yield from _norm(f"{name}.self_attn_layer_norm", width)
        yield from _linear(f"{name}.fc1", inner, width)
        yield from _linear(f"{name}.fc2", width, inner)
        yield from _norm(f"{name}.final_layer_norm", width)


def write_checkpoint(
    folder: Path,
    document: Json | None = None,
    weights: dict[str, np.ndarray] | None = None,
    *,
    dtype: str = "float32",
    shards: int = 1,
) -> Path:
    """Writes the folder in the hub's layout and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    document = document or config()
    stored = {name: values.astype(DTYPES[dtype]) for name, values in (weights or tensors(document)).items()}
    _write_json(folder / "config.json", document)
    _write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    _write_json(folder / "vocab.json", VOCAB)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
    _write_weights(folder, stored, shards)
    return folder


def _write_weights(folder: Path, stored: dict[str, np.ndarray], shards: int) -> None:
    if shards == 1:
        save_file(stored, folder / "model.safetensors")
        return
    names = list(stored)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: stored[name] for name in names[shard::shards]}
        save_file(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _write_json(path: Path, document: Json) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
