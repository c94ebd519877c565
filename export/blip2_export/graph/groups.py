"""Weights in groups of 32 input columns, each group with its own scale and zero point, as MatMulNBits reads them.

weight ~ (values - zero_point) * scale. The zero point is one of the codes, so that zero is always exact. When the
number of columns is no multiple of 32 the last group is padded with its zero point; the operator ignores the
padding, whatever it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GROUP_SIZE = 32


class Grouped(NamedTuple):
    """A weight matrix [out, in] in groups along `in`."""

    values: np.ndarray  # u8 [out, groups, 32]
    scale: np.ndarray  # f32 [out, groups]
    zero_point: np.ndarray  # u8 [out, groups]
    bits: int  # 4 or 8, also where values and zero points have a byte each
    columns: int  # in, without the padding of the last group


class Packed(NamedTuple):
    """The inputs B, scales and zero_points of MatMulNBits, in a form that GatherBlockQuantized shares."""

    values: np.ndarray  # u8 [out, groups, 16 or 32]
    scale: np.ndarray  # f32 [out, groups]
    zero_point: np.ndarray  # u8 [out, groups], or [out, groups / 2 rounded up] for 4 bits


def largest_code(bits: int) -> int:
    """15 or 255."""
    return 2**bits - 1


def split(weight: np.ndarray) -> np.ndarray:
    """[out, in] -> [out, groups, 32], padded with zeros."""
    out, columns = weight.shape
    padding = -columns % GROUP_SIZE
    padded = np.pad(weight, ((0, 0), (0, padding))) if padding else weight
    return padded.reshape(out, -1, GROUP_SIZE)


def dequantize(grouped: Grouped) -> np.ndarray:
    """Returns the weights that the codes stand for, f32 [out, in]."""
    steps = grouped.values.astype(np.float32)
    steps -= grouped.zero_point[..., None]
    steps *= grouped.scale[..., None]
    return np.ascontiguousarray(steps.reshape(len(steps), -1)[:, : grouped.columns])


def pack(grouped: Grouped) -> Packed:
    """Returns the arrays as the operator stores them; two 4-bit codes share a byte, the first one in its low half."""
    if grouped.bits == 8:
        return Packed(grouped.values, grouped.scale, grouped.zero_point)
    groups = grouped.zero_point.shape[1]
    zero_point = np.pad(grouped.zero_point, ((0, 0), (0, groups % 2)))
    return Packed(_pairs(grouped.values), grouped.scale, _pairs(zero_point))


def _pairs(codes: np.ndarray) -> np.ndarray:
    """[..., 2 n] codes -> [..., n] bytes."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)
