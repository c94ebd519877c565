"""Measures free memory and the memory of this process, and returns freed memory to the system.

Only anonymous memory counts: pages of a mapped file are dropped when memory runs short, so they need not fit.
The numbers come from Linux's /proc and cgroup files, and are None elsewhere.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

SAMPLE_SECONDS = 0.05
# The limit of a container, in the two layouts of the kernel.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_bytes() -> int | None:
    """Returns the bytes that can still be allocated: free memory and caches, within the container's limit."""
    free = _field(Path("/proc/meminfo"), "MemAvailable")
    if free is None:
        return None
    held = anonymous_bytes() or 0
    return min([free, *(limit - held for limit in _limits())])


def anonymous_bytes() -> int | None:
    """Returns the bytes that this process holds now, without mapped files."""
    return _field(Path("/proc/self/status"), "RssAnon")


def peak_resident_bytes() -> int:
    """Returns the peak resident bytes of this process, including mapped files."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release() -> None:
    """Returns freed memory to the system: the C library keeps freed blocks of tens of megabytes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakMemory:
    """Measures the peak of anonymous memory while a block runs, sampled twenty times a second."""

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        held = anonymous_bytes()
        if held is not None:
            self.bytes = max(self.bytes or 0, held)


def _field(path: Path, name: str) -> int | None:
    """Returns the value of a line `name:  123 kB` in one of the kernel's tables, in bytes."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(value) * 1024 for value in values), None)


def _limits() -> list[int]:
    texts = [Path(path).read_text(encoding="ascii").strip() for path in LIMITS if Path(path).is_file()]
    return [int(text) for text in texts if text != "max"]
