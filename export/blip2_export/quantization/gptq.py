"""GPTQ (arXiv 2210.17323) for groups: rounds column after column and lets the columns to come make up for the error.

The squared error of a layer's outputs is the sum over rows of e H e, where e is a row's error and H = X.T X of the
calibration inputs X. Columns go in order of falling diag(H). Then the error of a column, after all later ones have
made up for it as well as they can, costs 1 / U[i, i]^2, where U is the upper Cholesky factor of the inverse of H in
that order. These are the importances that scales and zero points are chosen with, once and before any rounding,
since the columns of a group come up in no order.

Measured as squared error of outputs / that of plain rounding, 4 bits, on inputs that were not calibrated with; the
layers of the committed checkpoint on activations of images, and normal weights on correlated inputs with outliers:

                                        vision  decoder  synthetic
    optimize                             0.89    0.90     0.89
    optimize, importance diag(H)         0.78    0.86     0.44
    GPTQ                                 0.061   0.148    0.012
    with importance diag(H)              0.068   0.154    0.013
    with columns in their own order      0.085   0.184    0.066
    with a Hessian in two blocks         0.067   0.155    0.027

The codes depend on the order in which BLAS sums up, so that another processor can give others, equally good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blip2_export.graph.groups import GROUP_SIZE, Grouped, largest_code
from blip2_export.quantization.optimize import optimize

if TYPE_CHECKING:
    from collections.abc import Sequence

# Added to the diagonal, as a share of its mean: calibration never sees enough inputs to be sure of the rest.
DAMPING = 0.01
# Errors reach the columns beyond a block by one matrix product at its end.
BLOCK_COLUMNS = 128
INVERTED_DIRECTLY = 128


class Factor(NamedTuple):
    """The factors of a Hessian H [n, n] that rounding uses."""

    order: np.ndarray  # i64 [n], the columns as they are rounded
    upper: np.ndarray  # f32 [n, n], upper triangular; upper.T @ upper is the inverse of H in that order


def gptq(weight: np.ndarray, hessian: Sequence[np.ndarray], bits: int = 4) -> Grouped:
    """Groups f32 [out, in] with a small error of the outputs.

    `hessian` holds the diagonal blocks of X.T @ X, X being the layer's inputs; all but the last are a multiple of 32
    columns. One block is best. Several bound the cost of wide layers: factoring takes the cube of a block's columns,
    so at 10,240 four blocks cost a sixteenth of the time and a quarter of the memory. What is lost is that a
    column's error is made up for by its own block only.
    """
    sizes = [len(block) for block in hessian]
    if sum(sizes) != weight.shape[1] or any(size % GROUP_SIZE for size in sizes[:-1]):
        raise ValueError(f"diagonal blocks of {sizes} columns do not divide {weight.shape[1]} columns into groups")
    factors = [_factor(block) for block in hessian]
    grouped = optimize(weight, bits, np.concatenate([_importance(factor) for factor in factors]))
    codes = grouped.values.reshape(len(weight), -1)
    start = 0
    for factor in factors:
        columns = slice(start, start + len(factor.order))
        groups = slice(start // GROUP_SIZE, -(-columns.stop // GROUP_SIZE))
        scale, zero_point = grouped.scale[:, groups], grouped.zero_point[:, groups]
        codes[:, columns] = _round(weight[:, columns], factor, scale, zero_point, largest_code(bits))
        start = columns.stop
    return grouped


def _factor(hessian: np.ndarray) -> Factor:
    damped = hessian.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)  # a view
    diagonal += DAMPING * (diagonal.mean() or 1.0)
    order = np.argsort(-diagonal, kind="stable")
    # With rows and columns reversed, the lower factor of H becomes the inverse of the upper one of its inverse.
    backwards = order[::-1]
    lower = np.linalg.cholesky(damped[np.ix_(backwards, backwards)])
    upper = _inverse_of_lower(lower)[::-1, ::-1]
    return Factor(order, np.ascontiguousarray(upper, dtype=np.float32))


def _inverse_of_lower(lower: np.ndarray) -> np.ndarray:
    """Inverts a lower triangular matrix by halves, at a quarter of the cost of a general inverse."""
    if len(lower) <= INVERTED_DIRECTLY:
        return np.linalg.inv(lower)
    half = len(lower) // 2
    inverse = np.zeros_like(lower)
    first = inverse[:half, :half] = _inverse_of_lower(lower[:half, :half])
    last = inverse[half:, half:] = _inverse_of_lower(lower[half:, half:])
    inverse[half:, :half] = -last @ (lower[half:, :half] @ first)
    return inverse


def _importance(factor: Factor) -> np.ndarray:
    """Returns the weight of each column's squared error, f32 [n]."""
    importance = np.empty(len(factor.order), np.float32)
    importance[factor.order] = np.diagonal(factor.upper) ** -2
    return importance


def _round(weight: np.ndarray, factor: Factor, scale: np.ndarray, zero_point: np.ndarray, top: int) -> np.ndarray:
    """Returns the codes u8 [out, n] of weight [out, n], in groups with scale and zero point [out, groups]."""
    order, upper = factor
    # Transposed, every column is one contiguous row; they stand in the order in which they are rounded.
    remaining = np.ascontiguousarray(weight.T)[order]
    scale, zero_point = np.ascontiguousarray(scale.T), np.ascontiguousarray(zero_point.T, dtype=np.float32)
    codes = np.empty(remaining.shape, np.uint8)
    for start in range(0, len(order), BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, len(order))
        errors = np.empty((end - start, len(weight)), np.float32)
        for place in range(start, end):
            column, group = remaining[place], order[place] // GROUP_SIZE
            column -= upper[start:place, place] @ errors[: place - start]
            rounded = column / scale[group]
            np.rint(rounded, out=rounded)
            rounded += zero_point[group]
            np.clip(rounded, 0, top, out=rounded)
            codes[order[place]] = rounded
            rounded -= zero_point[group]
            rounded *= scale[group]
            np.subtract(column, rounded, out=column)
            np.divide(column, upper[place, place], out=errors[place - start])
        remaining[end:] -= upper[start:end, end:].T @ errors
    return codes.T
