"""Loads the libraries of `.ort-gpu/` in dependency order, in its own process, and prints their versions.

`python -m gpu_check.libraries FOLDER [--tensorrt]`; exit code 1 names the first that cannot be loaded.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path

DRIVER = "libcuda.so.1"
CUDA = (
    "libcudart.so.13",
    "libnvrtc-builtins.so.13.0",
    "libnvrtc.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
)
TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
MAIN = "libonnxruntime.so"


def main() -> int:
    """Loads the libraries and prints their versions."""
    parser = argparse.ArgumentParser(prog="gpu_check.libraries", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tensorrt", action="store_true")
    options = parser.parse_args()
    wanted = [*CUDA, *(TENSORRT if options.tensorrt else ()), MAIN]
    for library in [DRIVER, *wanted]:
        path = library if library == DRIVER else os.fspath(options.folder / library)
        try:
            loaded = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            print(f"cannot load {library}: {error}", file=sys.stderr)
            return 1
        print(f"{library}{_version(library, loaded)}")
    return 0


def _version(library: str, loaded: ctypes.CDLL) -> str:
    number = ctypes.c_int()
    if library == DRIVER:
        loaded.cuDriverGetVersion(ctypes.byref(number))
        return f" for CUDA {_cuda(number.value)}"
    if library.startswith("libcudart"):
        loaded.cudaRuntimeGetVersion(ctypes.byref(number))
        return f" {_cuda(number.value)}"
    if library.startswith("libcudnn"):
        loaded.cudnnGetVersion.restype = ctypes.c_size_t
        return f" {_of_three(loaded.cudnnGetVersion())}"
    if library.startswith("libnvinfer"):
        return f" {_of_three(loaded.getInferLibVersion())}"
    return ""


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _of_three(number: int) -> str:
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


if __name__ == "__main__":
    sys.exit(main())
