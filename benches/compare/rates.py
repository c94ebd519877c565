"""What this machine can do: bytes read a second, and operations a second by type, measured while nothing else runs.

The best of all trials counts, because a floor asks what is possible. Integer products are ONNX Runtime's, as the
bundles use them; fp32 is the better of ONNX Runtime's and torch's; bf16 is torch's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compare.contenders import PACKAGE_PARENT
from compare.errors import CompareError

if TYPE_CHECKING:
    from collections.abc import Callable

Rates = dict[str, float]

SHAPES = ((257, 1408, 6144), (45, 2560, 10240))  # rows, in, out: a layer of the vision encoder, one of a prefill
BUFFER_BYTES = 2 << 30  # far beyond any cache
SECONDS = 1.0  # of each trial


def measure_rates(threads: int, device: str, *, with_torch: bool) -> Rates:
    """`bandwidth` in bytes a second; `int8`, `fp32`, `bf16`, `fp16` in operations a second, two to a multiply-add."""
    torch_rates = _torch_rates(threads, device) if with_torch or device == "cuda" else {}
    if device == "cuda":
        # Bundles for GPUs multiply in f16, whatever their weights are stored in.
        return {**torch_rates, "int8": torch_rates["fp16"]}
    own = {
        "bandwidth": read_bandwidth(threads, BUFFER_BYTES),
        "int8": max(_product_rate(shape, threads, "int8") for shape in SHAPES),
        "fp32": max(_product_rate(shape, threads, "fp32") for shape in SHAPES),
    }
    return {**torch_rates, **own, "fp32": max(own["fp32"], torch_rates.get("fp32", 0.0))}


def read_bandwidth(threads: int, size: int) -> float:
    """Bytes a second that all threads together read out of memory; the best of several ways to read."""
    chunks = np.array_split(np.ones(size // 8, dtype=np.int64), threads)
    readers = (
        lambda chunk: chunk.max(),
        lambda chunk: np.bitwise_or.reduce(chunk),
        lambda chunk: chunk.view(np.float32).max(),
    )
    with ThreadPoolExecutor(threads) as pool:
        return max(size / _least_seconds(lambda read=read: list(pool.map(read, chunks))) for read in readers)


def _product_rate(shape: tuple[int, int, int], threads: int, precision: str) -> float:
    """Operations a second of one product with constant weights, as in a layer."""
    rows, width, out = shape
    random = np.random.default_rng(0)
    if precision == "int8":
        inputs = random.integers(0, 256, (rows, width), dtype=np.uint8)
        weights = random.integers(-127, 128, (width, out), dtype=np.int8)
        node = helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
        constants = [("w", weights), ("zero", np.array(128, dtype=np.uint8))]
        types = (TensorProto.UINT8, TensorProto.INT32)
    else:
        inputs = random.standard_normal((rows, width), dtype=np.float32)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        constants = [("w", random.standard_normal((width, out), dtype=np.float32))]
        types = (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", types[0], [rows, width])],
        [helper.make_tensor_value_info("y", types[1], [rows, out])],
        [numpy_helper.from_array(values, name) for name, values in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return 2 * rows * width * out / _least_seconds(lambda: session.run(None, {"x": inputs}))


def _torch_rates(threads: int, device: str) -> Rates:
    command = [sys.executable, "-m", "compare.torch_rates", "--threads", str(threads), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE_PARENT)
    if done.returncode:
        raise CompareError(f"measuring what torch reaches: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _least_seconds(run: Callable[[], object]) -> float:
    least, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least
