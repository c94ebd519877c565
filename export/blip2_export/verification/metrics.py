"""Measures the distance of two tensors, two sets of logits and two answers. Plain arithmetic on numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]


@dataclass
class TensorErrors:
    """The distance between pairs of tensors of one kind, over all the pairs added."""

    max_abs: float = 0.0
    reference_max_abs: float = 0.0
    min_cosine: float = 1.0
    _sum_abs: float = 0.0
    _count: int = 0
    _cosines: list[float] = field(default_factory=list)

    def add(self, actual: np.ndarray, reference: np.ndarray) -> None:
        """Adds one pair of equal shape; cosines are taken along the last axis."""
        actual, reference = actual.astype(np.float64), reference.astype(np.float64)
        if actual.shape != reference.shape:
            raise ValueError(f"shapes differ: {actual.shape} and {reference.shape}")
        distance = np.abs(actual - reference)
        self.max_abs = max(self.max_abs, _or_infinite(distance.max()))
        self.reference_max_abs = max(self.reference_max_abs, float(np.abs(reference).max()))
        self._sum_abs += _or_infinite(distance.sum())
        self._count += distance.size
        cosines = cosine(actual, reference).reshape(-1)
        self._cosines.extend(cosines.tolist())
        self.min_cosine = min(self.min_cosine, float(np.nan_to_num(cosines, nan=-1.0).min()))

    @property
    def relative(self) -> float:
        """The largest error in units of the largest reference value."""
        return self.max_abs / max(self.reference_max_abs, 1e-30)

    @property
    def mean_cosine(self) -> float:
        """The mean over all vectors; 1 if there are none."""
        return float(np.nan_to_num(np.mean(self._cosines), nan=-1.0)) if self._cosines else 1.0

    def report(self) -> Json:
        """Returns the numbers for parity.json."""
        return {
            "max_abs_error": self.max_abs,
            "mean_abs_error": self._sum_abs / max(self._count, 1),
            "relative_error": self.relative,
            "mean_cosine": self.mean_cosine,
            "min_cosine": self.min_cosine,
        }


@dataclass
class LogitsAgreement:
    """The agreement of next-token distributions, position by position, on the reference's own tokens.

    `divergences` are KL(reference || actual) in nats, one a position.
    """

    errors: TensorErrors = field(default_factory=TensorErrors)
    divergences: list[float] = field(default_factory=list)
    _equal: list[bool] = field(default_factory=list)

    def add(self, actual: np.ndarray, reference: np.ndarray) -> None:
        """Adds logits [positions, vocab]."""
        self.errors.add(actual, reference)
        self.divergences.extend(np.nan_to_num(kl_divergence(reference, actual), nan=np.inf).tolist())
        self._equal.extend((actual.argmax(-1) == reference.argmax(-1)).tolist())

    @property
    def top1_agreement(self) -> float:
        """The share of positions at which the most likely token is the same."""
        return float(np.mean(self._equal)) if self._equal else 1.0

    @property
    def kl_mean(self) -> float:
        """The mean divergence in nats."""
        return float(np.mean(self.divergences)) if self.divergences else 0.0

    def report(self) -> Json:
        """Returns the numbers for parity.json."""
        return {
            **self.errors.report(),
            "kl_mean": self.kl_mean,
            "kl_max": float(np.max(self.divergences)),
            "top1_agreement": self.top1_agreement,
            "positions": len(self._equal),
        }


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the cosine along the last axis."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.maximum(norms, 1e-30)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns natural logarithms of probabilities, in f64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl_divergence(reference: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Returns KL(reference || actual) of logits [positions, vocab], in nats."""
    expected, found = log_softmax(reference), log_softmax(actual)
    return (np.exp(expected) * (expected - found)).sum(-1)


def margin(logits: np.ndarray) -> float:
    """Returns the smallest gap between the best and the second best logit over all positions."""
    top = np.partition(logits, -2, axis=-1)
    return float((top[..., -1] - top[..., -2]).min())


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Returns how many tokens two answers share from the start."""
    for position, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return position
    return min(len(a), len(b))


def _or_infinite(value: float) -> float:
    """Replaces NaN by infinity, because every comparison would let a NaN pass."""
    return float(np.nan_to_num(value, nan=np.inf))
