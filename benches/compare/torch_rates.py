"""What torch reaches on this machine, as one JSON object: multiplications by type, and on a GPU its memory.

A process of its own, because torch would keep its threads and its memory. Must not import the rest of `compare`.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = ((257, 1408, 6144), (45, 2560, 10240))  # rows, in, out: a layer of the vision encoder, one of a prefill
LARGE = (4096, 8192, 8192)  # what fills a GPU
SECONDS = 1.0  # of each trial
COPY_BYTES = 1 << 30


def main() -> None:
    """Prints operations a second by type, and bytes a second as `bandwidth` on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, required=True, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_gpu = options.device == "cuda"
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, **({"fp16": torch.float16} if on_gpu else {})}
    shapes = (*SHAPES, LARGE) if on_gpu else SHAPES
    rates = {name: max(_products(shape, dtype, options.device) for shape in shapes) for name, dtype in types.items()}
    if on_gpu:
        rates["bandwidth"] = _reads(options.device)
    print(json.dumps(rates))


def _products(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> float:
    rows, width, out = shape
    layer = torch.nn.Linear(width, out, bias=False, dtype=dtype, device=device)
    inputs = torch.randn(rows, width, dtype=dtype, device=device)
    with torch.inference_mode():
        return 2 * rows * width * out / _least_seconds(lambda: layer(inputs), device)


def _reads(device: str) -> float:
    """A sum only reads."""
    values = torch.ones(COPY_BYTES // 2, dtype=torch.float16, device=device)
    return COPY_BYTES / _least_seconds(lambda: values.max(), device)


def _least_seconds(run: Callable[[], object], device: str) -> float:
    least, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return least


if __name__ == "__main__":
    main()
