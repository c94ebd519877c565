"""Writes a checkpoint of any dimensions with synthetic weights, for tests and measurements without the real ones.

It has the files of a download: config.json, safetensors in shards, preprocessor_config.json and a tokenizer. The
weights come from `weights`, a piece at a time, so memory does not depend on their size.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export.bundle.folder import new_bundle
from blip2_export.bundle.size import free_bytes
from blip2_export.checkpoint.config import parse_config
from blip2_export.checkpoint.preprocessing import BICUBIC, CLIP_MEAN, CLIP_STD, image_manifest
from blip2_export.checkpoint.reader import INDEX, Checkpoint, read_object
from blip2_export.checkpoint.safetensors_file import STORED_TYPES, create_file, open_data, split_shards
from blip2_export.checkpoint.tensors import stage_of, tensor_shapes
from blip2_export.checkpoint.tokenizer import tokenizer_bytes
from blip2_export.errors import ExportError
from blip2_export.files import json_bytes, write_file
from blip2_export.progress import ByteProgress, progress, size
from blip2_export.synthetic.tokenizer import tokenizer_files
from blip2_export.synthetic.weights import SyntheticWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np

    from blip2_export.checkpoint.config import Blip2Config
    from blip2_export.checkpoint.safetensors_file import StoredType
    from blip2_export.checkpoint.tensors import Shape

Json = dict[str, Any]

# The configuration of Salesforce/blip2-opt-2.7b since late 2024. Absent keys have the defaults of transformers.
BLIP2_OPT_2_7B: Json = {
    "architectures": ["Blip2ForConditionalGeneration"],
    "image_text_hidden_size": 256,
    "image_token_index": 50265,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "model_type": "blip-2",
    "num_query_tokens": 32,
    "qformer_config": {"classifier_dropout": None, "model_type": "blip_2_qformer"},
    "text_config": {
        "_name_or_path": "facebook/opt-2.7b",
        "activation_dropout": 0.0,
        "architectures": ["OPTForCausalLM"],
        "eos_token_id": 50118,
        "ffn_dim": 10240,
        "hidden_size": 2560,
        "model_type": "opt",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "vocab_size": 50304,
        "word_embed_proj_dim": 2560,
    },
    "torch_dtype": "float32",
    "use_decoder_only_language_model": True,
    "vision_config": {
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "model_type": "blip_2_vision_model",
        "num_channels": 3,
        "projection_dim": 512,
    },
}
# A tokenizer is either the first file, or the second and the third.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
PIECES_AHEAD = 32  # of some MB each
SPARE_BYTES = 64 * 1024 * 1024  # of the disk, for everything but the weights


@dataclass(frozen=True)
class SyntheticOptions:
    """The options of `make-checkpoint`. `like` is a config.json, `tokenizer` a folder."""

    output: Path
    like: Path | None = None
    tokenizer: Path | None = None
    seed: int = 0
    dtype: str = "float16"
    shard_bytes: int = 5_000_000_000


def make_checkpoint(options: SyntheticOptions) -> None:
    """Writes the checkpoint. The same options but for `shard_bytes` give the same tensors.

    Raises:
        ExportError: the configuration or the tokenizer is unsuitable, or the output folder must not be replaced.
    """
    if options.dtype not in STORED_TYPES:
        raise ExportError(f"--dtype {options.dtype}: must be one of {', '.join(STORED_TYPES)}")
    stored = STORED_TYPES[options.dtype]
    document = BLIP2_OPT_2_7B if options.like is None else read_object(options.like)
    config = parse_config(document)
    shapes = tensor_shapes(config)
    total = sum(map(stored.tensor_bytes, shapes.values()))
    _check_output(options.output, total + SPARE_BYTES)
    with new_bundle(options.output, force=False) as folder:
        write_file(folder / "config.json", json_bytes(document))
        write_file(folder / "preprocessor_config.json", json_bytes(_preprocessor(config)))
        _write_tokenizer(folder, config, options.tokenizer)
        shards = split_shards(shapes, stored, options.shard_bytes)
        _create_shards(folder, shards, stored, total)
        _check_readable(folder)
        _fill_shards(folder, shards, stored, SyntheticWeights(config, options.seed), ByteProgress(total))
    progress(f"wrote {options.output} ({size(total)} of weights in {len(shards)} files)")


def _check_output(output: Path, needed: int) -> None:
    if output.is_dir() and any(output.iterdir()):
        raise ExportError(f"{output}: folder is not empty; choose another --output, or remove it first")
    free = free_bytes(output)
    if free < needed:
        raise ExportError(
            f"{output}: the checkpoint takes {size(needed)}, {size(free)} are free on this disk; "
            "make room or choose another --output"
        )


def _preprocessor(config: Blip2Config) -> Json:
    side = config.vision.image_size
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "BlipImageProcessor",
        "image_std": CLIP_STD,
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }


def _write_tokenizer(folder: Path, config: Blip2Config, source: Path | None) -> None:
    if source is None:
        files = tokenizer_files(config)
    else:
        files = {name: (source / name).read_bytes() for name in TOKENIZER_FILES if (source / name).is_file()}
        if "tokenizer.json" not in files and len(files) < 2:
            raise ExportError(f"{source}: neither tokenizer.json nor vocab.json with merges.txt found")
    for name, content in files.items():
        write_file(folder / name, content)


def _create_shards(folder: Path, shards: dict[str, dict[str, Shape]], stored: StoredType, total: int) -> None:
    for file, tensors in shards.items():
        create_file(folder / file, tensors, stored)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    write_file(folder / INDEX, json_bytes({"metadata": {"total_size": total}, "weight_map": weight_map}))


def _check_readable(folder: Path) -> None:
    """Refuses a checkpoint that `export` would refuse, before the long work: the weights are in place, all zero."""
    checkpoint = Checkpoint(folder)
    checkpoint.require(tensor_shapes(checkpoint.config))
    image_manifest(checkpoint)
    tokenizer_bytes(checkpoint)


def _fill_shards(
    folder: Path, shards: dict[str, dict[str, Shape]], stored: StoredType, weights: SyntheticWeights, bar: ByteProgress
) -> None:
    stage = ""
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, tensors in shards.items():
            with open_data(folder / file) as stream:
                for name, content in _contents(pool, tensors, stored, weights):
                    if stage != stage_of(name):
                        stage = stage_of(name)
                        bar.stage(stage)
                    stream.write(content)
                    bar.advance(len(content))
                stream.flush()
                os.fsync(stream.fileno())


def _contents(
    pool: ThreadPoolExecutor, tensors: dict[str, Shape], stored: StoredType, weights: SyntheticWeights
) -> Iterator[tuple[str, bytes]]:
    """Yields the data of a file in order, each part with the name of its tensor. A few parts are made in advance."""
    waiting: deque[tuple[str, Future[bytes]]] = deque()
    for name, shape in tensors.items():
        for piece in weights.pieces(name, shape):
            waiting.append((name, pool.submit(_encoded, piece, stored)))
            if len(waiting) > PIECES_AHEAD:
                first, content = waiting.popleft()
                yield first, content.result()
    yield from ((name, content.result()) for name, content in waiting)


def _encoded(piece: Callable[[], np.ndarray], stored: StoredType) -> bytes:
    return piece().astype(stored.numpy).tobytes()
