"""Estimates the size of a bundle, so that a full disk is reported before the work, not after it."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from blip2_export.checkpoint.reader import EMBED_POSITIONS, EMBED_TOKENS
from blip2_export.checkpoint.tensors import stage_of, tensor_shapes
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from blip2_export.checkpoint.reader import Checkpoint
    from blip2_export.graph.precision import StagePrecisions

# Rounded up; 4 bits carry a 32-bit scale and a zero point for every 32 weights.
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.01, "int4": 0.65}
GPU_INT8_BYTES = 1.13  # 8 bits in groups
SPARE_BYTES = 64 * 1024 * 1024


def bundle_bytes(checkpoint: Checkpoint, target: str, precision: StagePrecisions) -> int:
    """Returns an upper bound of the bundle's size in bytes."""
    total = float(SPARE_BYTES)
    for name, shape in tensor_shapes(checkpoint.config).items():
        total += math.prod(shape) * _bytes_per_weight(name, len(shape) == 2, target, precision)
    return int(total)


def _bytes_per_weight(name: str, is_matrix: bool, target: str, precision: StagePrecisions) -> float:
    stage = getattr(precision, stage_of(name))
    if name == EMBED_TOKENS:
        return BYTES_PER_WEIGHT["fp16" if target != "cpu" else "fp32" if stage == "fp32" else "int8"]
    if not is_matrix or name == EMBED_POSITIONS:
        return BYTES_PER_WEIGHT["fp32"]
    return GPU_INT8_BYTES if stage == "int8" and target != "cpu" else BYTES_PER_WEIGHT[stage]


def check_disk(output: Path, needed: int) -> None:
    """Raises ExportError when the disk of the output folder has less than `needed` bytes free."""
    free = free_bytes(output)
    if free < needed:
        raise ExportError(
            f"{output}: the bundle takes about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on this disk; "
            "make room or choose another --output"
        )


def free_bytes(output: Path) -> int:
    """Returns the free bytes on the disk of an output folder, which need not exist yet."""
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    return shutil.disk_usage(parent).free
