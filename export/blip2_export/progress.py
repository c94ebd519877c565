"""Shows progress on stderr: lines, and for long work a bar with stage, bytes and time left."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

BAR_WIDTH = 24
REDRAW_SECONDS = 0.2  # on a terminal
LINE_SECONDS = 10.0  # in a log


def progress(line: str) -> None:
    """Prints a line of progress on stderr; results go to stdout."""
    print(f"blip2_export: {line}", file=sys.stderr, flush=True)


class ByteProgress:
    """Progress of work measured in bytes: a line that is redrawn on a terminal, a line at intervals elsewhere.

    The time left follows the pace of the current stage, because stages differ in work per byte.
    """

    def __init__(self, total: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = max(total, 1)
        self.done = 0
        self._stream = stream or sys.stderr
        self._clock = clock
        self._interactive = self._stream.isatty()
        self._stage = ""
        self._stage_start = (clock(), 0)
        self._shown = -LINE_SECONDS

    def stage(self, name: str) -> None:
        """Begins a stage."""
        self._stage, self._stage_start = name, (self._clock(), self.done)
        self._show()

    def advance(self, count: int) -> None:
        """Counts bytes as done."""
        self.done += count
        if self._clock() - self._shown >= (REDRAW_SECONDS if self._interactive else LINE_SECONDS):
            self._show()

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the line on a terminal, so that the next output starts on its own."""
        if self._interactive:
            self._stream.write("\n")

    def _show(self) -> None:
        self._shown = self._clock()
        share = min(self.done / self.total, 1.0)
        bar = "#" * round(share * BAR_WIDTH)
        text = f"{self._stage:<24} [{bar:<{BAR_WIDTH}}] {share:4.0%} of {size(self.total)}{self._left()}"
        # A shorter line must cover the one before it.
        self._stream.write(f"\r{text:<79}" if self._interactive else f"blip2_export: {text}\n")
        self._stream.flush()

    def _left(self) -> str:
        seconds, work = self._shown - self._stage_start[0], self.done - self._stage_start[1]
        if seconds < 1 or not work:
            return ""
        return f", {duration((self.total - self.done) * seconds / work)} left"


def size(count: int) -> str:
    """Formats bytes for people: `3.9 MB`, `7.48 GB`."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Formats seconds for people: `45 s`, `3 min 20 s`."""
    whole = round(max(seconds, 0))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"
