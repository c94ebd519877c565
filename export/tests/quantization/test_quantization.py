"""Weights in groups: the layouts as ONNX Runtime reads them, and how much the methods lose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors import safe_open

from blip2_export.graph.builder import MICROSOFT, GraphBuilder
from blip2_export.graph.contract import Contract, TensorSpec
from blip2_export.graph.groups import GROUP_SIZE, Grouped, dequantize, pack, split
from blip2_export.inference.session import open_session
from blip2_export.quantization import optimize as search
from blip2_export.quantization.gptq import gptq
from blip2_export.quantization.optimize import optimize
from blip2_export.quantization.rounding import round_to_nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnxruntime as ort

TRAINED = Path(__file__).parents[3] / "onnx" / "checkpoint" / "model.safetensors"
LAYER = "language_model.model.decoder.layers.1"
CPU_INFO = Path("/proc/cpuinfo")
EXACT, INT8_ACTIVATIONS = 0, 4
# Out and in: a multiple of 32, a padded group, an odd number of groups, and fewer columns than a group.
SHAPES = [(48, 64), (33, 52), (7, 96), (40, 20)]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def heavy_tails(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_t(2.5, shape).astype(np.float32)


def trained(name: str) -> np.ndarray:
    with safe_open(TRAINED, framework="np") as file:
        return file.get_tensor(f"{LAYER}.{name}.weight").astype(np.float32)


def correlated(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Inputs like those of a trained layer: some directions dominate, and so do a few channels."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(columns)  # the same for every seed
    mixing = shared.standard_normal((columns // 4, columns))
    channels = np.exp(shared.standard_normal(columns) / 2)
    channels[shared.choice(columns, 3)] *= 15
    x = rng.standard_normal((rows, columns // 4)) @ mixing + rng.standard_normal((rows, columns))
    return (x * channels).astype(np.float32)


def weight_error(weight: np.ndarray, grouped: Grouped) -> float:
    return float(np.square(weight - dequantize(grouped), dtype=np.float64).mean())


def output_error(x: np.ndarray, weight: np.ndarray, grouped: Grouped) -> float:
    return float(np.square(x @ (weight - dequantize(grouped)).T, dtype=np.float64).mean())


def group_errors(weight: np.ndarray, grouped: Grouped) -> np.ndarray:
    return np.square(split(weight - dequantize(grouped)).astype(np.float64)).sum(axis=-1)


def quantized_activations(x: np.ndarray) -> np.ndarray:
    """What accuracy level 4 multiplies with: 8 bits, a scale for each 32 columns of a row."""
    groups = split(x).astype(np.float64)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 127
    values = np.rint(groups / np.where(scale > 0, scale, 1)) * scale
    return values.reshape(len(x), -1)[:, : x.shape[1]]


def product(
    folder: Path, grouped: Grouped, level: int, bias: np.ndarray | None = None, dtype: str = "float32"
) -> Callable[[np.ndarray], np.ndarray]:
    """x -> x @ weight.T + bias by MatMulNBits."""
    out, into = len(grouped.values), grouped.columns
    specs = [TensorSpec(name, dtype, ("t", size)) for name, size in (("x", into), ("y", out))]
    builder = GraphBuilder(Contract("product", (specs[0],), (specs[1],)), "test")
    packed = pack(grouped)
    constants = {"b": packed.values, "scale": packed.scale.astype(dtype), "zero_point": packed.zero_point}
    inputs = ["x", *(builder.constant(name, values) for name, values in constants.items())]
    if bias is not None:
        inputs += ["", builder.constant("bias", bias.astype(dtype))]
    attributes = {"K": into, "N": out, "bits": grouped.bits, "block_size": GROUP_SIZE, "accuracy_level": level}
    builder.op("MatMulNBits", inputs, "y", domain=MICROSOFT, **attributes)
    session = open_builder(folder, builder)
    return lambda x: session.run(None, {"x": x})[0]


def open_builder(folder: Path, builder: GraphBuilder) -> ort.InferenceSession:
    path = folder / "graph.onnx"
    path.write_bytes(builder.model().SerializeToString())
    return open_session(path, threads=1)


def assert_near(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(actual - expected).max() / np.abs(expected).max() < tolerance


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_onnx_runtime_reads_every_packed_weight_at_its_place(tmp_path: Path, bits: int, out: int, into: int) -> None:
    grouped = optimize(normal(out, into), bits)
    weight = product(tmp_path, grouped, EXACT)(np.eye(into, dtype=np.float32)).T
    np.testing.assert_array_equal(weight, dequantize(grouped))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_onnx_runtime_multiplies_the_same_weights(tmp_path: Path, rows: int, bits: int, out: int, into: int) -> None:
    grouped, x, bias = optimize(normal(out, into), bits), normal(rows, into, seed=1), normal(out, seed=2)
    x[:, 3] *= 30
    x[rows - 1, :GROUP_SIZE] = 0
    weight = dequantize(grouped).astype(np.float64)
    for level, inputs in ((EXACT, x), (INT8_ACTIVATIONS, quantized_activations(x))):
        assert_near(product(tmp_path, grouped, level, bias)(x), inputs @ weight.T + bias, 2e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_onnx_runtime_multiplies_in_f16(tmp_path: Path, bits: int) -> None:
    grouped, x, bias = optimize(normal(33, 52), bits), normal(7, 52, seed=1).astype(np.float16), normal(33, seed=2)
    expected = x.astype(np.float32) @ dequantize(grouped).T + bias
    assert_near(product(tmp_path, grouped, EXACT, bias, "float16")(x), expected, 2e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_8_bit_codes_do_not_saturate(tmp_path: Path, sign: int) -> None:
    grouped = round_to_nearest(np.full((5, 64), sign, np.float32), 8)
    assert_near(product(tmp_path, grouped, INT8_ACTIVATIONS)(np.ones((3, 64), np.float32)), np.full(1, 64 * sign), 1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_a_row_is_the_same_in_every_batch(tmp_path: Path, bits: int, out: int, into: int) -> None:
    x = normal(16, into, seed=1)
    run = product(tmp_path, optimize(normal(out, into), bits), INT8_ACTIVATIONS)
    whole = run(x)
    for rows in (2, 3, 8):
        np.testing.assert_array_equal(run(x[5 : 5 + rows]), whole[5 : 5 + rows])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_a_row_is_the_same_alone(tmp_path: Path, bits: int, out: int, into: int) -> None:
    if bits == 4 and not (CPU_INFO.is_file() and "avx512bw" in CPU_INFO.read_text(encoding="ascii")):
        pytest.skip("without AVX-512 a single row has a kernel of its own for 4 bits, which sums up in another order")
    x = normal(16, into, seed=1)
    run = product(tmp_path, optimize(normal(out, into), bits), INT8_ACTIVATIONS)
    np.testing.assert_array_equal(np.concatenate([run(x[row : row + 1]) for row in range(16)]), run(x))


@pytest.mark.parametrize("into", [96, 52])
def test_one_8_bit_table_serves_for_looking_up_and_for_multiplying(tmp_path: Path, into: int) -> None:
    grouped = optimize(normal(48, into), 8)
    x_spec, ids_spec = TensorSpec("x", "float32", ("t", into)), TensorSpec("ids", "int64", ("r", "s"))
    y_spec, rows_spec = TensorSpec("y", "float32", ("t", 48)), TensorSpec("rows", "float32", ("r", "s", into))
    builder = GraphBuilder(Contract("tied", (x_spec, ids_spec), (y_spec, rows_spec)), "test")
    table, scale, zero_point = (builder.constant(name, values) for name, values in pack(grouped)._asdict().items())
    attributes = {"bits": 8, "block_size": GROUP_SIZE}
    columns = [builder.op("Unsqueeze", [x, builder.ints(-1)], f"{x}/Column") for x in (scale, zero_point)]
    groups = builder.op(
        "GatherBlockQuantized",
        [table, "ids", *columns],
        "groups",
        domain=MICROSOFT,
        gather_axis=0,
        quantize_axis=2,
        **attributes,
    )
    padded = builder.reshape(groups, [0, 0, -1], "padded")
    builder.op("Slice", [padded, builder.ints(0), builder.ints(into), builder.ints(-1)], "rows")
    builder.op("MatMulNBits", ["x", table, scale, zero_point], "y", domain=MICROSOFT, K=into, N=48, **attributes)
    ids, x = np.array([[3, 0, 47], [5, 5, 1]]), normal(4, into, seed=1)
    y, rows = open_builder(tmp_path, builder).run(None, {"x": x, "ids": ids})
    np.testing.assert_array_equal(rows, dequantize(grouped)[ids])
    assert_near(y, x @ dequantize(grouped).T, 2e-6)


@pytest.mark.parametrize("method", [round_to_nearest, optimize])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("error")
def test_extreme_groups_keep_their_values(method: Callable[[np.ndarray, int], Grouped], bits: int) -> None:
    ramp = np.linspace(-1, 2, GROUP_SIZE, dtype=np.float32)
    scales = np.array([1e-37, 1e-20, 1, 1e20, 1e37], np.float32)
    weight = ramp * scales[:, None]
    grouped = method(weight, bits)
    error = np.abs(dequantize(grouped) - weight).max(axis=1)
    assert (error < 0.7 * 3 * scales / (2**bits - 1)).all()
    assert (grouped.values[0] == grouped.values).all()


@pytest.mark.parametrize("method", [round_to_nearest, optimize])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("error")
def test_constant_groups_are_exact(method: Callable[[np.ndarray, int], Grouped], bits: int) -> None:
    weight = np.repeat(np.array([0, 0.3, -0.7, 1e30, -1e-30], np.float32)[:, None], GROUP_SIZE, axis=1)
    np.testing.assert_allclose(dequantize(method(weight, bits)), weight, rtol=3e-7)


@pytest.mark.parametrize("method", [round_to_nearest, optimize])
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_is_exact_and_so_is_the_padding(method: Callable[[np.ndarray, int], Grouped], bits: int) -> None:
    weight = normal(6, 52) + np.array([[-3], [0], [3]] * 2, np.float32)
    weight[:, ::7] = 0
    grouped = method(weight, bits)
    assert dequantize(grouped).shape == weight.shape
    assert (dequantize(grouped)[:, ::7] == 0).all()
    padding = grouped.values.reshape(6, -1)[:, 52:]
    np.testing.assert_array_equal(padding, np.broadcast_to(grouped.zero_point[:, -1:], padding.shape))


@pytest.mark.parametrize("bits", [4, 8])
def test_plain_rounding_is_off_by_half_a_step_at_most(bits: int) -> None:
    weight = normal(16, 96)
    grouped = round_to_nearest(weight, bits)
    error = split(np.abs(dequantize(grouped) - weight))
    assert (error <= grouped.scale[..., None] * 0.501).all()


@pytest.mark.parametrize(("bits", "share"), [(4, 0.905), (8, 0.75)])
def test_optimizing_beats_plain_rounding_on_normal_weights(bits: int, share: float) -> None:
    weight = normal(256, 1024)
    assert weight_error(weight, optimize(weight, bits)) < share * weight_error(weight, round_to_nearest(weight, bits))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "weight",
    [pytest.param(heavy_tails(64, 320), id="tails"), pytest.param(np.abs(normal(64, 320)) + 1, id="positive"), "fc1"],
)
def test_optimizing_makes_no_group_worse(bits: int, weight: np.ndarray | str) -> None:
    weight = trained(weight) if isinstance(weight, str) else weight
    plain = group_errors(weight, round_to_nearest(weight, bits))
    optimized = group_errors(weight, optimize(weight, bits))
    assert (optimized <= plain * 1.05).all()  # in 8 bits the errors compared are near the rounding of f32
    assert optimized.sum() < 0.95 * plain.sum()


@pytest.mark.parametrize("weight", [normal(256, GROUP_SIZE), heavy_tails(256, GROUP_SIZE)], ids=["normal", "tails"])
def test_the_search_comes_near_the_best_of_all_grids(weight: np.ndarray) -> None:
    best = np.full(len(weight), np.inf)
    plain = round_to_nearest(weight, 4).scale
    for zero_point in range(16):
        for factor in np.linspace(0.5, 1.4, 60):
            steps = np.rint(weight / (plain * factor)).clip(-zero_point, 15 - zero_point)
            scale = (steps * weight).sum(axis=1) / np.maximum(np.square(steps).sum(axis=1), 1)
            best = np.minimum(best, np.square(weight - steps * scale[:, None]).sum(axis=1))
    assert group_errors(weight, optimize(weight, 4)).sum() < 1.003 * best.sum()


def test_important_columns_get_the_smaller_error() -> None:
    weight, importance = normal(256, 320), np.exp(2 * normal(320, seed=1))
    errors = [np.square(weight - dequantize(optimize(weight, 4, chosen))).mean(0) for chosen in (None, importance)]
    plain, minded = (float((error * importance).mean()) for error in errors)
    assert minded < 0.75 * plain


@pytest.mark.parametrize("inactive", [slice(0, 40), slice(0, 64)])
def test_columns_without_importance_keep_sensible_values(inactive: slice) -> None:
    weight, importance = normal(64, 64), np.ones(64, np.float32)
    importance[inactive] = 0
    error = np.square(weight - dequantize(optimize(weight, 4, importance))).mean(axis=0)
    assert error.max() < 0.05


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("chunk", [1, 1 << 10, 1 << 20])
def test_threads_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, threads: int, chunk: int) -> None:
    weight, importance = normal(37, 84), np.exp(normal(84, seed=1))
    expected = optimize(weight, 4, importance)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    monkeypatch.setattr(search, "CHUNK_WEIGHTS", chunk)
    for value, found in zip(expected, optimize(weight, 4, importance), strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["fc1", "fc2", "self_attn.out_proj"])
def test_gptq_loses_far_less_on_new_correlated_inputs(name: str, bits: int) -> None:
    weight = trained(name)
    calibration, others = correlated(2000, weight.shape[1]), correlated(500, weight.shape[1], seed=1)
    hessian = calibration.T @ calibration
    rivals = [optimize(weight, bits), optimize(weight, bits, np.diag(hessian))]
    best_rival = min(output_error(others, weight, rival) for rival in rivals)
    assert output_error(others, weight, gptq(weight, [hessian], bits)) < 0.35 * best_rival


def test_gptq_with_a_hessian_in_blocks_still_beats_optimizing() -> None:
    weight, x = normal(64, 308), correlated(2000, 308)
    blocks = [x[:, :160].T @ x[:, :160], x[:, 160:].T @ x[:, 160:]]
    error = output_error(x, weight, gptq(weight, blocks))
    assert output_error(x, weight, gptq(weight, [x.T @ x])) < error
    assert error < 0.7 * output_error(x, weight, optimize(weight, 4, np.square(x).mean(axis=0)))


def test_gptq_without_correlations_is_the_search_with_importance() -> None:
    weight, importance = normal(64, 160), np.exp(2 * normal(160, seed=1))
    choices = gptq(weight, [np.diag(importance)]), optimize(weight, 4, importance)
    errors = [(np.square(weight - dequantize(choice)) * importance).mean() for choice in choices]
    assert errors[0] < 1.01 * errors[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [0, 3])
def test_gptq_does_with_few_inputs_and_inactive_columns(rows: int) -> None:
    weight, x = normal(16, 52), correlated(rows, 52)
    x[:, 10:20] = 0
    grouped = gptq(weight, [x.T @ x])
    assert weight_error(weight[:, 10:20], optimize(weight[:, 10:20], 4)) < 0.02
    assert np.square(weight - dequantize(grouped))[:, 10:20].mean() < 0.03
    padding = grouped.values.reshape(16, -1)[:, 52:]
    np.testing.assert_array_equal(padding, np.broadcast_to(grouped.zero_point[:, -1:], padding.shape))


@pytest.mark.parametrize("sizes", [(64, 32), (20, 76), (96, 96)])
def test_gptq_refuses_blocks_that_do_not_fit_the_groups(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="diagonal blocks"):
        gptq(normal(4, 100), [np.eye(size) for size in sizes])
