"""The int8 linear layer against integer arithmetic in numpy."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import tiny_checkpoint

from blip2_export.graph.builder import GraphBuilder
from blip2_export.graph.contract import Contract, TensorSpec
from blip2_export.graph.linear import ANY, GELU, RELU, Range, linear_layers, quantize_weight
from blip2_export.inference.session import open_session
from blip2_export.quantization.rounding import ROUNDINGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blip2_export.verification.onnx_blip2 import OnnxBlip2

INTO, OUT = 96, 40


def run_linear(
    folder: Path, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, activation: str | None = None
) -> np.ndarray:
    """One int8 layer, behind an activation if one is named, alone in a graph; run as bundles are run."""
    out, into = weight.shape
    x_spec, y_spec = TensorSpec("x", "float32", ("t", into)), TensorSpec("y", "float32", ("t", out))
    builder = GraphBuilder(Contract("linear", (x_spec,), (y_spec,)), "test")
    linear = linear_layers(builder, "int8", ROUNDINGS["optimized"])
    read = getattr(linear, activation)("x", "activation") if activation else "x"
    builder.op("Identity", [linear(read, "layer", weight, bias)], "y")
    path = folder / "linear.onnx"
    path.write_bytes(builder.model().SerializeToString())
    return open_session(path, threads=1).run(None, {"x": x})[0]


def integer_reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, laid: Range = ANY) -> np.ndarray:
    """The same in numpy: exact integer sums, then f64."""
    quantized = quantize_weight(weight)
    largest = (np.abs(x) if laid.is_signed else x).max(-1, keepdims=True)
    scale = np.maximum(largest, np.float32(laid.least_largest)) / np.float32(laid.steps)
    values = np.rint(x / scale).astype(np.int64)
    assert (values + laid.zero_point).min() >= 0
    assert (values + laid.zero_point).max() <= 255
    sums = values @ quantized.values.T.astype(np.int64)
    return sums * scale.astype(np.float64) * quantized.scale + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: value * (1 + math.erf(value / math.sqrt(2))) / 2)(x.astype(np.float64)).astype(
        "f4"
    )


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


@pytest.mark.parametrize(
    ("activation", "function", "laid"), [("relu", lambda x: np.maximum(x, 0), RELU), ("gelu", gelu, GELU)]
)
def test_behind_an_activation_the_product_uses_its_range(
    tmp_path: Path,
    layer: tuple[np.ndarray, np.ndarray],
    activation: str,
    function: Callable[[np.ndarray], np.ndarray],
    laid: Range,
) -> None:
    x = tiny_checkpoint.seeded("x", (33, INTO), 2.0)
    x[5] *= 1000
    x[6] *= 1e-3
    x[7] = -np.abs(x[7])
    x[8] = -0.7518  # where gelu is lowest
    expected = integer_reference(function(x), *layer, laid)
    largest = np.abs(expected).max(-1, keepdims=True)
    # Where a value lies halfway between two steps, another gelu may round it to the other one.
    limit = 1e-6 if activation == "relu" else 2e-3
    assert (np.abs(run_linear(tmp_path, x, *layer, activation) - expected) / largest).max() < limit


def test_the_range_of_gelu_holds_its_lowest_value() -> None:
    lowest = gelu(np.linspace(-3, 0, 3001, dtype=np.float32)).min()
    assert GELU.zero_point + lowest * GELU.steps / GELU.least_largest > -0.5


def test_a_token_that_relu_silences_gives_the_bias(tmp_path: Path, layer: tuple[np.ndarray, np.ndarray]) -> None:
    x = tiny_checkpoint.seeded("x", (3, INTO), 1.0)
    x[1] = -np.abs(x[1]) * 1e10
    np.testing.assert_array_equal(run_linear(tmp_path, x, *layer, "relu")[1], layer[1])


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_do_not_saturate(tmp_path: Path, rows: int, sign: int, activation: str | None) -> None:
    """Fails on x86 without VNNI when a session lacks `session.x64quantprecision`."""
    weight = np.full((OUT, INTO), sign, np.float32)
    x = np.ones((rows, INTO), np.float32)
    expected = np.full((rows, OUT), sign * INTO)
    np.testing.assert_allclose(run_linear(tmp_path, x, weight, None, activation), expected, rtol=1e-6)


def test_a_token_of_zeros_gives_the_bias(tmp_path: Path, layer: tuple[np.ndarray, np.ndarray]) -> None:
    x = tiny_checkpoint.seeded("x", (3, INTO), 1.0)
    x[1] = 0
    y = run_linear(tmp_path, x, *layer)
    np.testing.assert_array_equal(y[1], layer[1])
    assert np.isfinite(y).all()


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_a_token_is_the_same_alone_and_among_others(
    tmp_path: Path, layer: tuple[np.ndarray, np.ndarray], activation: str | None
) -> None:
    """Fails when ONNX Runtime fuses both scales into one operator, which reads the first row's scale only."""
    x = tiny_checkpoint.seeded("x", (17, INTO), 1.0) * np.geomspace(1e-3, 1e3, 17, dtype=np.float32)[:, None]
    together = run_linear(tmp_path, x, *layer, activation)
    alone = [run_linear(tmp_path, x[row : row + 1], *layer, activation) for row in range(17)]
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


def test_query_key_and_value_in_three_products_equal_one(tmp_path: Path) -> None:
    weight = tiny_checkpoint.seeded("weight", (3 * OUT, INTO), 0.1)
    bias = tiny_checkpoint.seeded("bias", (3 * OUT,), 0.1)
    x_spec = TensorSpec("x", "float32", ("t", INTO))
    outputs = tuple(TensorSpec(name, "float32", ("t", size)) for name, size in (("three", 3 * OUT), ("one", 3 * OUT)))
    builder = GraphBuilder(Contract("qkv", (x_spec,), outputs), "test")
    linear = linear_layers(builder, "int8", ROUNDINGS["optimized"])
    qkv = linear.qkv("x", "attention", weight, bias, 1)
    joined = builder.op("Concat", qkv.inputs, "joined", axis=-1)
    builder.op("Add", [builder.reshape(joined, [-1, 3 * OUT], "flat"), qkv.bias], "three")
    builder.op("Identity", [linear("x", "stacked", weight, bias)], "one")
    (tmp_path / "qkv.onnx").write_bytes(builder.model().SerializeToString())
    session = open_session(tmp_path / "qkv.onnx", threads=1)
    three, one = session.run(None, {"x": tiny_checkpoint.seeded("x", (17, INTO), 1.0)})
    np.testing.assert_array_equal(three, one)


def test_int8_graphs_pass_over_activations_no_more_than_they_must(int8_bundle: Path) -> None:
    """No Relu and no Split; Abs only where the sign is unknown; zero points once for each range, not for each layer."""
    counts = {}
    for stage in ("vision_encoder", "decoder"):
        graph = onnx.load(int8_bundle / f"{stage}.onnx").graph
        counts[stage] = Counter(node.op_type for node in graph.node)
        assert counts[stage]["Relu"] + counts[stage]["Split"] == 0
    layers = {name: tiny_checkpoint.CONFIG[f"{name}_config"]["num_hidden_layers"] for name in ("vision", "text")}
    assert counts["vision_encoder"]["Abs"] == 3 * layers["vision"]
    assert counts["decoder"]["Abs"] == 3 * layers["text"] + 1  # and the output layer
    zero_points = {
        stage: [
            node
            for node in onnx.load(int8_bundle / f"{stage}.onnx").graph.node
            if node.op_type == "Expand" and node.output[0].endswith("ZeroPoints")
        ]
        for stage in counts
    }
    assert {stage: len(nodes) for stage, nodes in zero_points.items()} == {"vision_encoder": 2, "decoder": 3}


def test_the_standard_attention_refuses_a_bias() -> None:
    builder = GraphBuilder(Contract("attention", (), ()), "test", standard_only=True)
    with pytest.raises(ValueError, match="a bias inside the standard attention"):
        builder.attention("q", "k", "v", "attention", 2, 4, "bias")


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
