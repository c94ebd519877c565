"""What the numbers were measured on, and with what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Json = dict[str, Any]

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
# What decides which kernels are taken for a type.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("onnxruntime", "torch", "transformers", "numpy", "pillow")


def describe(device: str) -> Json:
    """Processor, memory and, where one is used, the GPU."""
    about = _pairs(CPU_INFO)
    flags = about.get("flags", "").split()
    memory = _pairs(MEMORY_INFO).get("MemTotal", "0 kB").split()[0]
    machine: Json = {
        "cpu": about.get("model name", platform.processor() or "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "features": [feature for feature in CPU_FEATURES if feature in flags],
        "memory_bytes": int(memory) * 1024,
    }
    if device == "cuda":
        machine["gpu"] = _gpu_name()
    return machine


def versions() -> dict[str, str]:
    """Of the packages here; those of the contenders come from themselves."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit(folder: Path) -> str:
    """The commit that is checked out, with a + where files differ from it."""
    described = _output(["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=9"])
    return described or "unknown"


def slug(machine: Json) -> str:
    """A name for a folder: `amd-epyc-9575f`, `nvidia-h100-80gb-hbm3`."""
    name = re.sub(r"\(.*?\)|\b\d+-core\b|\bprocessor\b|\bcpu\b|@.*", " ", machine.get("gpu", machine["cpu"]).lower())
    return "-".join(re.findall(r"[a-z0-9]+", name)) or "unknown"


def _pairs(file: Path) -> dict[str, str]:
    """`key: value` lines; of a key that comes for every core, the last."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _gpu_name() -> str:
    return _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).partition("\n")[0] or "unknown GPU"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
