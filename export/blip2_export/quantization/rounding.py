"""Rounds weights in groups without data; `ROUNDINGS` has the choices of `--rounding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blip2_export.graph.groups import Grouped, largest_code, split
from blip2_export.quantization.optimize import optimize

if TYPE_CHECKING:
    from blip2_export.graph.linear import Grouping


def round_to_nearest(weight: np.ndarray, bits: int) -> Grouped:
    """Rounds f32 [out, in] on the grid from the least to the largest weight of each group, or zero if beyond.

    The baseline that better methods are compared with.
    """
    top, groups = largest_code(bits), split(weight)
    lowest = np.minimum(groups.min(axis=-1), 0)
    highest = np.maximum(groups.max(axis=-1), 0)
    # Divided one by one, because the difference of two large weights can overflow.
    scale = highest / np.float32(top) - lowest / np.float32(top)
    scale = np.where(scale > 0, scale, np.float32(1))
    zero_point = np.rint(-lowest / scale).clip(0, top)
    values = np.rint(groups / scale[..., None] + zero_point[..., None]).clip(0, top)
    return Grouped(values.astype(np.uint8), scale, zero_point.astype(np.uint8), bits, weight.shape[1])


def _nearest(_name: str, weight: np.ndarray, _bias: np.ndarray | None, bits: int) -> Grouped:
    return round_to_nearest(weight, bits)


def _optimized(_name: str, weight: np.ndarray, _bias: np.ndarray | None, bits: int) -> Grouped:
    return optimize(weight, bits)


ROUNDINGS: dict[str, Grouping] = {"optimized": _optimized, "nearest": _nearest}
