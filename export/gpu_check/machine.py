"""Reads the GPU and its driver from nvidia-smi, and checks that ONNX Runtime's GPU build supports it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

# The requirements of CUDA 13 (NVIDIA, CUDA compatibility: minor version compatibility).
OLDEST_DRIVER = 580
# The machine code in libonnxruntime_providers_cuda.so 1.31.1, by `cuobjdump --list-elf`; it has no PTX that a driver
# could compile for others. Code for 8.6 runs on 8.7; that for 9.0 and 12.0 is of these alone (sm_90a, sm_120a).
CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "12.0")
QUERY = ("name", "driver_version", "compute_cap", "memory.total")


class NoGpuError(Exception):
    """No usable GPU: the message has the reason and the remedy."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    driver: str
    compute_capability: str
    memory_mib: int | None  # some share the memory of the machine, and name none

    @property
    def slug(self) -> str:
        """The name for a folder."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


def find_gpu(device_id: int) -> Gpu:
    """Finds the GPU of a number.

    Raises:
        NoGpuError: there is none, or it or its driver is too old.
    """
    if shutil.which("nvidia-smi") is None:
        raise NoGpuError("no NVIDIA driver: nvidia-smi not found")
    query = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits", f"--id={device_id}"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoGpuError(f"nvidia-smi does not answer: {error}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise NoGpuError(f"nvidia-smi ended with {done.returncode}: {said[0] if said else 'nothing said'}")
    gpu = _parse(done.stdout)
    if _series(gpu.driver) < OLDEST_DRIVER:
        raise NoGpuError(f"driver {gpu.driver} is too old for CUDA 13: install {OLDEST_DRIVER} or later")
    if gpu.compute_capability not in CAPABILITIES:
        raise NoGpuError(
            f"{gpu.name} has compute capability {gpu.compute_capability}; this ONNX Runtime has code for "
            f"{', '.join(CAPABILITIES)}"
        )
    return gpu


def _parse(line: str) -> Gpu:
    fields = [field.strip() for field in line.strip().split(",")]
    if len(fields) != len(QUERY):
        raise NoGpuError(f"cannot parse this line of nvidia-smi: {line.strip()!r}")
    name, driver, capability, memory = fields
    return Gpu(name, driver, capability, int(memory) if memory.isdecimal() else None)


def _series(driver: str) -> int:
    series = driver.partition(".")[0]
    return int(series) if series.isdecimal() else 0
