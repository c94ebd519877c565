"""Times the phases of a verification, measures their memory, and estimates the time left."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from blip2_export.progress import LINE_SECONDS, duration, progress
from blip2_export.verification.memory import PeakMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """The cost of one phase. The memory is anonymous memory of the whole process; None where it cannot be read."""

    name: str
    seconds: float
    peak_anonymous_bytes: int | None

    def report(self) -> Json:
        """Returns the entry for parity.json."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 1),
            "peak_anonymous_bytes": self.peak_anonymous_bytes,
        }


class Phases:
    """Runs phases one after another and reports them through `say`."""

    def __init__(self, say: Callable[[str], None] = progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.done: list[Phase] = []
        self._say = say
        self._clock = clock
        self._name = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the block."""
        self._name, start = name, self._clock()
        self._say(name)
        with PeakMemory() as peak:
            yield
        self.done.append(Phase(name, self._clock() - start, peak.bytes))

    def each(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Yields the items, and reports at intervals how many are done and how long the rest will take."""
        start = shown = self._clock()
        for number, item in enumerate(items):
            now = self._clock()
            if number and now - shown >= LINE_SECONDS:
                shown = now
                left = duration((now - start) / number * (len(items) - number))
                self._say(f"{self._name}: {number} of {len(items)} {what}, {left} left")
            yield item
