"""What can be told of the graphs for GPUs without a GPU: types, kernels, what would fall back to the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import helper
from operator_support import (
    F16,
    F32,
    I32,
    TENSORRT_OPERATORS,
    TENSORRT_OPSETS,
    U8,
    element_types,
    has_kernel,
    qualified,
)

from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.graph.contract import OPSET, STAGES, contracts
from blip2_export.graph.precision import CHOICES, stage_precisions
from blip2_export.graph.stage import Graph, stage_graph
from blip2_export.quantization.rounding import ROUNDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Build = Callable[[str, str, str], onnx.ModelProto]

GPU = [(target, precision) for target in ("cuda", "tensorrt") for precision in CHOICES[target].presets]
IMAGE_STAGES = ("vision_encoder", "qformer")
# Their outputs, or inputs other than constants, are shapes, which ONNX Runtime keeps in CPU memory.
SHAPE_OPERATORS = {"Shape", "Size", "Expand", "ConstantOfShape", "Range", "Tile"}
SHAPE_INPUTS = {"Reshape": [1], "Slice": [1, 2, 3], "Unsqueeze": [1]}


@pytest.fixture(scope="module")
def build(checkpoint: Path) -> Build:
    reader, built = Checkpoint(checkpoint), {}

    def model(stage: str, target: str, precision: str) -> onnx.ModelProto:
        graph = Graph(stage, target, getattr(stage_precisions(target, precision), stage), ROUNDINGS["optimized"])
        if graph not in built:
            built[graph] = stage_graph(reader, graph).model()
        return built[graph]

    return model


def nodes(model: onnx.ModelProto, op_type: str) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type == op_type)


def attributes(node: onnx.NodeProto) -> dict[str, int | float | bytes]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize(("target", "precision"), GPU)
@pytest.mark.parametrize("stage", STAGES)
def test_the_full_check_of_onnx_accepts_every_graph(build: Build, target: str, precision: str, stage: str) -> None:
    onnx.checker.check_model(build(stage, target, precision), full_check=True)


@pytest.mark.parametrize(("target", "precision"), GPU)
@pytest.mark.parametrize("stage", STAGES)
def test_cuda_has_a_kernel_for_every_node(build: Build, target: str, precision: str, stage: str) -> None:
    model = build(stage, target, precision)
    types = element_types(model.graph)
    without = {
        (qualified(node), types[node.input[0]])
        for node in model.graph.node
        if not has_kernel(node, OPSET, types[node.input[0]])
    }
    assert not without


def test_an_open_ended_kernel_does_not_serve_a_later_version_of_its_operator() -> None:
    """The kernel of Pad is registered for version 18 on. At opset 21 Pad has version 21, and would run on the CPU."""
    pad = helper.make_node("Pad", ["x", "pads"], ["y"])
    assert has_kernel(pad, 18, F16)
    assert not has_kernel(pad, 21, F16)


@pytest.mark.parametrize(("target", "precision"), GPU)
@pytest.mark.parametrize("stage", STAGES)
def test_no_shape_is_computed_so_that_nothing_has_to_run_on_the_cpu(
    build: Build, target: str, precision: str, stage: str
) -> None:
    graph = build(stage, target, precision).graph
    assert not SHAPE_OPERATORS & {node.op_type for node in graph.node}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for index in SHAPE_INPUTS.get(node.op_type, []):
            assert node.input[index] in constants, node.name


@pytest.mark.parametrize("stage", IMAGE_STAGES)
def test_tensorrt_takes_every_operator_and_type_of_the_encoder_and_the_q_former(build: Build, stage: str) -> None:
    model = build(stage, "tensorrt", "fp16")
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET)}
    assert OPSET in TENSORRT_OPSETS
    types = element_types(model.graph)
    for node in model.graph.node:
        assert types[node.input[0]] in TENSORRT_OPERATORS.get(qualified(node), ()), node.name
        assert not list(node.output)[1:] or node.op_type == "Split", node.name


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
@pytest.mark.parametrize("stage", IMAGE_STAGES)
def test_only_the_batch_varies_so_that_one_profile_says_it_all(build: Build, target: str, stage: str) -> None:
    graph = build(stage, target, "fp16").graph
    for value in [*graph.input, *graph.output]:
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(axis.dim_value > 0 for axis in rest)


@pytest.mark.parametrize("stage", IMAGE_STAGES)
def test_shapes_inferred_strictly_are_those_of_the_contract(build: Build, stage: str, checkpoint: Path) -> None:
    """Only where all operators are standard: onnx infers nothing behind those of ONNX Runtime."""
    model = build(stage, "tensorrt", "fp16")
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    for value in stripped.graph.output:  # else the declared shape is all that is found
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(stripped, check_type=True, strict_mode=True, data_prop=True)
    contract = contracts(Checkpoint(checkpoint).config, "tensorrt")[stage]
    for value, spec in zip(inferred.graph.output, contract.outputs, strict=True):
        assert [axis.dim_value for axis in value.type.tensor_type.shape.dim][1:] == list(spec.axes[1:])


@pytest.mark.parametrize(("target", "precision"), GPU)
def test_attention_over_the_cache_is_f16_with_lengths_in_i32(build: Build, target: str, precision: str) -> None:
    graph = build("decoder", target, precision).graph
    types = element_types(graph)
    found = list(nodes(build("decoder", target, precision), "GroupQueryAttention"))
    assert found
    for node in found:
        qkv, key, value, past_key, past_value, seqlens_k, total = node.input
        assert (key, value) == ("", "")  # packed into the first
        assert {types[name] for name in (qkv, past_key, past_value, *node.output)} == {F16}
        assert {types[seqlens_k], types[total]} == {I32}
        settings = attributes(node)
        assert settings["num_heads"] % settings["kv_num_heads"] == 0
    assert {types[value.name] for value in graph.output if value.name.startswith("present.")} == {F16}


@pytest.mark.parametrize(("target", "precision"), GPU)
def test_logits_softmax_and_the_statistics_of_norms_are_f32(build: Build, target: str, precision: str) -> None:
    decoder = build("decoder", target, precision)
    types = element_types(decoder.graph)
    made = {name: node for node in decoder.graph.node for name in node.output}
    assert types["logits"] == F32
    assert {types[name] for name in made["logits"].input} == {F32}
    for stage in STAGES:
        model = build(stage, target, precision)
        types = element_types(model.graph)
        assert {types[node.input[0]] for node in nodes(model, "Softmax")} <= {F32}
        # 1 means f32, and is the default.
        assert {attributes(node).get("stash_type", 1) for node in nodes(model, "LayerNormalization")} == {1}


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_weights_of_few_bits_are_laid_out_as_the_cuda_kernel_reads_them(
    build: Build, target: str, precision: str, bits: int
) -> None:
    model = build("decoder", target, precision)
    types = element_types(model.graph)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found = list(nodes(model, "MatMulNBits"))
    assert found
    for node in found:
        x, weight, scale, zero_point = node.input
        settings = attributes(node)
        assert (settings["bits"], settings["block_size"]) == (bits, 32)
        assert [types[name] for name in (x, weight, scale, zero_point)] == [F16, U8, F16, U8]
        groups = -(-settings["K"] // 32)
        assert shapes[weight] == [settings["N"], groups, 32 * bits // 8]
