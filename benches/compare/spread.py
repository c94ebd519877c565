"""Medians with what lies around them. Few repeats make no quartiles: least and most are told instead."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Spread:
    """A median, the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None without values."""
        values = list(values)
        return cls(median(values), min(values), max(values)) if values else None


def ratios(slow: Mapping[int, float], fast: Mapping[int, float]) -> Spread | None:
    """How many times `fast` is faster, round by round, as both saw the same machine in the same minutes.

    None where no round has both.
    """
    return Spread.of(slow[number] / fast[number] for number in sorted(slow.keys() & fast.keys()))
