"""Builds stand-ins for CUDA's libraries, so that ONNX Runtime's own placement of nodes can be seen without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "data/cuda_stand_in.c"
LIBRARIES = (
    "libcuda.so.1",
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
)
OPENED_LATER = re.compile(rb"\0((?:cudnn|nvrtc)[A-Z]\w+)(?=\0)")


def build(provider: Path, folder: Path) -> None:
    """Compiles the libraries that `libonnxruntime_providers_cuda.so` wants into a folder."""
    listed = subprocess.run(
        ["readelf", "--wide", "--dyn-syms", provider],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    wanted = set(re.findall(r" UND ((?:__cuda|cuda|cublas|curand|cu[A-Z])\w*)", listed.stdout))
    wanted |= {name.decode() for name in OPENED_LATER.findall(provider.read_bytes())}
    source = SOURCE.read_text(encoding="utf-8")
    written = set(re.findall(r"\b(\w+)\([^;]*\) \{", source))
    rest = "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(wanted - written))
    whole = folder / "stand_in.c"
    whole.write_text(source + rest, encoding="utf-8")
    for library in LIBRARIES:
        words = ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, whole]
        subprocess.run(words, check=True)
