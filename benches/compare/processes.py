"""What a process holds in memory, and how it is ended."""

from __future__ import annotations

import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL_S = 0.2
GPU_EVERY = 10  # looks: asking the driver takes a process of its own
STOP_TIMEOUT_S = 40


@dataclass
class Usage:
    """The most that a process held, in bytes, and its processor time; None where the system does not say."""

    resident: int | None = None  # with the pages of files that it had mapped
    private: int | None = None  # without them
    gpu: int | None = None
    cpu_s: float | None = None


class UsageWatch:
    """Looks at a process until it is stopped. The kernel keeps the resident peak itself; the others are looked for."""

    def __init__(self, pid: int, *, gpu: bool) -> None:
        self.usage = Usage()
        self._pid, self._gpu, self._stop, self._looks = pid, gpu, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> Usage:
        """Call it while the process still lives: a dead one has no memory."""
        self._stop.set()
        self._thread.join()
        self._look()
        return self.usage

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        self._looks += 1
        status = _status(self._pid)
        self.usage.resident = _larger(self.usage.resident, status.get("VmHWM"))
        self.usage.private = _larger(self.usage.private, status.get("RssAnon"))
        self.usage.cpu_s = _larger(self.usage.cpu_s, _cpu_seconds(self._pid))
        if self._gpu and (self._looks % GPU_EVERY == 0 or self._stop.is_set()):
            self.usage.gpu = _larger(self.usage.gpu, _gpu_bytes(self._pid))


def busy_seconds() -> float:
    """Processor time that all processes have taken since the machine started; 0 if unknown."""
    times = Path("/proc/stat")
    if not times.is_file():
        return 0.0
    user, nice, system = map(int, times.read_text(encoding="ascii").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def end(process: subprocess.Popen[str]) -> None:
    """Asks a process to end, and waits; kills it when it does not."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_through(folder: Path) -> int:
    """Reads all files of a folder, so that a start measures no disk; their bytes."""
    total = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            while count := len(file.read(1 << 24)):
                total += count
    return total


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}


def _cpu_seconds(pid: int) -> float | None:
    """User and system time, with that of children that have ended."""
    try:
        # The name of the program, in brackets, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _gpu_bytes(pid: int) -> int | None:
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split(",") for line in lines if line.count(",") == 1)
    # In a container the driver may know processes by other numbers. Only one contender is alive, so one row is its row.
    used = {int(number): int(mib) for number, mib in rows if mib.strip().isdecimal()}
    mib = used.get(pid, next(iter(used.values())) if len(used) == 1 else None)
    return None if mib is None else mib << 20


def _larger(first: float | None, second: float | None) -> Any:  # noqa: ANN401 - as the arguments, an int of ints
    return max((value for value in (first, second) if value is not None), default=None)
