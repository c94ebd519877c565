"""The int8 linear layer against integer arithmetic in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import tiny_checkpoint

from blip2_export.builder import GraphBuilder
from blip2_export.contract import Contract, TensorSpec
from blip2_export.linear import SMALLEST_ABSMAX, linear_layers, quantize_weight
from blip2_export.onnx_blip2 import open_session
from blip2_export.stage_graph import ROUNDINGS

if TYPE_CHECKING:
    from pathlib import Path

    from blip2_export.onnx_blip2 import OnnxBlip2

INTO, OUT = 96, 40


def run_linear(folder: Path, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """One int8 layer alone in a graph, run as bundles are run."""
    out, into = weight.shape
    x_spec, y_spec = TensorSpec("x", "float32", ("t", into)), TensorSpec("y", "float32", ("t", out))
    builder = GraphBuilder(Contract("linear", (x_spec,), (y_spec,)), "test")
    builder.op("Identity", [linear_layers(builder, "int8", ROUNDINGS["optimized"])("x", "layer", weight, bias)], "y")
    path = folder / "linear.onnx"
    path.write_bytes(builder.model().SerializeToString())
    return open_session(path, threads=1).run(None, {"x": x})[0]


def integer_reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The same in numpy: exact integer sums, then f64."""
    quantized = quantize_weight(weight)
    scale = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(SMALLEST_ABSMAX)) / np.float32(127)
    values = np.rint(x / scale).astype(np.int64)
    sums = values @ quantized.values.T.astype(np.int64)
    return sums * scale.astype(np.float64) * quantized.scale + bias


@pytest.fixture
def layer() -> tuple[np.ndarray, np.ndarray]:
    return tiny_checkpoint.seeded("weight", (OUT, INTO), 0.1), tiny_checkpoint.seeded("bias", (OUT,), 0.1)


def test_the_product_equals_integer_arithmetic(tmp_path: Path, layer: tuple[np.ndarray, np.ndarray]) -> None:
    x = tiny_checkpoint.seeded("x", (33, INTO), 2.0)
    x[5] *= 1000
    x[:, 7] *= 50
    expected = integer_reference(x, *layer)
    largest = np.abs(expected).max(-1, keepdims=True)
    assert (np.abs(run_linear(tmp_path, x, *layer) - expected) / largest).max() < 1e-6


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_do_not_saturate(tmp_path: Path, rows: int, sign: int) -> None:
    """Fails on x86 without VNNI when a session lacks `session.x64quantprecision`."""
    weight = np.full((OUT, INTO), sign, np.float32)
    x = np.ones((rows, INTO), np.float32)
    expected = np.full((rows, OUT), sign * INTO)
    np.testing.assert_allclose(run_linear(tmp_path, x, weight, None), expected, rtol=1e-6)


def test_a_token_of_zeros_gives_the_bias(tmp_path: Path, layer: tuple[np.ndarray, np.ndarray]) -> None:
    x = tiny_checkpoint.seeded("x", (3, INTO), 1.0)
    x[1] = 0
    y = run_linear(tmp_path, x, *layer)
    np.testing.assert_array_equal(y[1], layer[1])
    assert np.isfinite(y).all()


def test_a_token_is_the_same_alone_and_among_others(tmp_path: Path, layer: tuple[np.ndarray, np.ndarray]) -> None:
    """Fails when ONNX Runtime fuses both scales into one operator, which reads the first row's scale only."""
    x = tiny_checkpoint.seeded("x", (17, INTO), 1.0) * np.geomspace(1e-3, 1e3, 17, dtype=np.float32)[:, None]
    together = run_linear(tmp_path, x, *layer)
    alone = [run_linear(tmp_path, x[row : row + 1], *layer) for row in range(17)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_weights_use_the_whole_range_and_a_zero_channel_stays_zero() -> None:
    weight = np.array([[0.5, -1.0, 0.25], [0, 0, 0], [3, 2.99, -0.02]], np.float32)
    quantized = quantize_weight(weight)
    assert quantized.values.tolist() == [[64, -127, 32], [0, 0, 0], [127, 127, -1]]
    np.testing.assert_allclose(quantized.scale, [1 / 127, 1, 3 / 127], rtol=1e-6)


def test_a_tensor_is_quantised_once_for_all_its_readers(layer: tuple[np.ndarray, np.ndarray]) -> None:
    specs = [TensorSpec(name, "float32", ("t", size)) for name, size in (("x", INTO), ("a", OUT), ("b", OUT))]
    builder = GraphBuilder(Contract("two_readers", tuple(specs[:1]), tuple(specs[1:])), "test")
    linear = linear_layers(builder, "int8", ROUNDINGS["optimized"])
    for name in ("a", "b"):
        linear("x", name, *layer)
    operators = [node.op_type for node in builder.model().graph.node]
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("MatMulIntegerToFloat") == 2


def test_only_the_q_former_multiplies_in_fp32(int8_bundle: Path) -> None:
    products = {
        stage: {node.op_type for node in onnx.load(int8_bundle / f"{stage}.onnx").graph.node}
        & {"MatMul", "Gemm", "MatMulIntegerToFloat"}
        for stage in ("vision_encoder", "qformer", "decoder")
    }
    integer, floats = {"MatMulIntegerToFloat"}, {"MatMul"}
    assert products == {"vision_encoder": integer, "qformer": floats, "decoder": integer}


@pytest.mark.parametrize(("precision", "bytes_each"), [("fp32", 4), ("int8", 1)])
def test_the_token_table_is_stored_once(request: pytest.FixtureRequest, precision: str, bytes_each: int) -> None:
    graph = onnx.load(request.getfixturevalue(f"{precision}_bundle") / "decoder.onnx").graph
    text = tiny_checkpoint.CONFIG["text_config"]
    shapes = {(text["vocab_size"], text["hidden_size"]), (text["hidden_size"], text["vocab_size"])}
    tables = [len(tensor.raw_data) for tensor in graph.initializer if tuple(tensor.dims) in shapes]
    assert tables == [text["vocab_size"] * text["hidden_size"] * bytes_each]


def test_the_order_of_tokens_matters_to_the_int8_table(int8_model: OnnxBlip2) -> None:
    prefix = int8_model.no_prefix(1)
    logits = [int8_model.prefill(int8_model.cache(1), prefix, [ids]) for ids in ([2, 50, 77], [50, 2, 77])]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
