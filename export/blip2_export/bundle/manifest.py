"""Builds manifest.json from the checkpoint's configuration and the contracts of the graphs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import safetensors

from blip2_export import __version__
from blip2_export.bundle.folder import SCHEMA_VERSION
from blip2_export.graph.contract import KV_DTYPES, KV_LAYOUT, OPSET, PAST_TEMPLATE, PRESENT_TEMPLATE, contracts

if TYPE_CHECKING:
    from blip2_export.checkpoint.config import Blip2Config
    from blip2_export.checkpoint.reader import Checkpoint
    from blip2_export.graph.contract import Contract, TensorSpec
    from blip2_export.graph.precision import StagePrecisions

Json = dict[str, Any]

DEFAULT_MAX_NEW_TOKENS = 20


@dataclass(frozen=True)
class Provenance:
    """Where a bundle comes from: `sources` and `files` map names to hash and size, `options` is what the command
    was asked for, `operators` counts the operators of each graph."""

    sources: Json
    options: Json
    operators: dict[str, dict[str, int]]
    files: Json


def manifest(
    checkpoint: Checkpoint, *, name: str, target: str, precision: StagePrecisions, image: Json, provenance: Provenance
) -> Json:
    """Returns the manifest of a finished bundle."""
    identity = checkpoint.identity()
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "checkpoint": {"id": identity.id, "revision": identity.revision, "files": provenance.sources},
        "target": target,
        "precision": asdict(precision),
        "image": image,
        **_stages(checkpoint.config, target),
        "tokenizer": _tokenizer(checkpoint.config),
        "generation": {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS},
        "tools": tools(),
        "export": {"options": provenance.options, "operators": provenance.operators},
        "files": provenance.files,
    }


def tools() -> Json:
    """Returns the versions that decide the bytes of a bundle."""
    return {
        "blip2_export": __version__,
        "onnx": onnx.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
        "opset": str(OPSET),
    }


def _stages(config: Blip2Config, target: str) -> Json:
    graphs = contracts(config, target)
    return {
        "vision_encoder": _vision_encoder(config, graphs["vision_encoder"]),
        "qformer": _qformer(config, graphs["qformer"]),
        "decoder": _decoder(config, graphs["decoder"], KV_DTYPES[target]),
    }


def _vision_encoder(config: Blip2Config, contract: Contract) -> Json:
    vision = config.vision
    return {
        "file": contract.file,
        "hidden_size": vision.hidden_size,
        "num_tokens": vision.num_tokens,
        "num_layers": vision.num_layers,
        "num_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "inputs": _names(contract.inputs),
        "outputs": _names(contract.outputs),
    }


def _qformer(config: Blip2Config, contract: Contract) -> Json:
    qformer = config.qformer
    return {
        "file": contract.file,
        "hidden_size": qformer.hidden_size,
        "num_query_tokens": qformer.num_query_tokens,
        "num_layers": qformer.num_layers,
        "num_heads": qformer.num_heads,
        "inputs": _names(contract.inputs),
        "outputs": _names(contract.outputs),
    }


def _decoder(config: Blip2Config, contract: Contract, kv_dtype: str) -> Json:
    text = config.text
    return {
        "file": contract.file,
        "hidden_size": text.hidden_size,
        "num_layers": text.num_layers,
        "num_heads": text.num_heads,
        "head_dim": text.head_dim,
        "vocab_size": text.vocab_size,
        "max_positions": text.max_positions,
        "inputs": _names(contract.inputs),
        "outputs": _names(contract.outputs),
        "past": PAST_TEMPLATE,
        "present": PRESENT_TEMPLATE,
        "kv_dtype": kv_dtype,
        "kv_layout": list(KV_LAYOUT),
    }


def _names(specs: tuple[TensorSpec, ...]) -> Json:
    """Maps roles to names in the graph, without the KV buffers, which follow a template."""
    templates = tuple(template.partition("{")[0] for template in (PAST_TEMPLATE, PRESENT_TEMPLATE))
    return {spec.name: spec.name for spec in specs if not spec.name.startswith(templates)}


def _tokenizer(config: Blip2Config) -> Json:
    return {
        "file": "tokenizer.json",
        "bos_token_id": config.text.bos_token_id,
        "eos_token_id": config.text.eos_token_id,
        "pad_token_id": config.text.pad_token_id,
        "image_token_id": config.image_token_id,
    }
