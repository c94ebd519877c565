"""What targets and precisions mean, and what the graphs of each are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import tiny_checkpoint
from onnx import TensorProto

from blip2_export.bundle.size import bundle_bytes
from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.errors import ExportError
from blip2_export.graph.contract import STAGES
from blip2_export.graph.precision import CHOICES, StagePrecisions, stage_precisions
from blip2_export.graph.stage import Graph, stage_graph
from blip2_export.quantization.rounding import ROUNDINGS
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from pathlib import Path

ALL = [(target, precision) for target, choice in CHOICES.items() for precision in choice.presets]
MICROSOFT = "com.microsoft."


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("cpu",), ("int8", "fp32", "int8")),
        (("cpu", "int4"), ("int8", "fp32", "int4")),
        (("cpu", "int8", "fp32"), ("fp32", "fp32", "int8")),
        (("cpu", "fp32", None, "int4"), ("fp32", "fp32", "int4")),
        (("cuda",), ("fp16", "fp32", "fp16")),
        (("cuda", "int4", "fp32"), ("fp32", "fp32", "int4")),
        (("tensorrt", None, None, "int8"), ("fp16", "fp32", "int8")),
    ],
)
def test_a_stage_can_differ_from_its_preset(arguments: tuple[str, ...], expected: tuple[str, str, str]) -> None:
    assert stage_precisions(*arguments) == StagePrecisions(*expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cpu", "fp16"), "--precision fp16: target cpu offers fp32, int8, int4"),
        (("cuda", "fp32"), "--precision fp32: target cuda offers fp16, int8, int4"),
        (("cuda", "fp16", "int8"), "--vision-encoder-precision int8: target cuda offers fp32, fp16"),
        (("tensorrt", "fp16", None, "fp32"), "--decoder-precision fp32: target tensorrt offers fp16, int8, int4"),
    ],
)
def test_what_a_target_does_not_offer_is_refused_with_what_it_does(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        stage_precisions(*arguments)


@pytest.fixture(scope="module")
def reader(checkpoint: Path) -> Checkpoint:
    return Checkpoint(checkpoint)


def graph(stage: str, target: str, precision: str) -> Graph:
    return Graph(stage, target, precision, ROUNDINGS["optimized"])


@pytest.mark.parametrize(("target", "precision"), ALL)
@pytest.mark.parametrize("stage", STAGES)
def test_every_graph_is_valid_onnx(reader: Checkpoint, target: str, precision: str, stage: str) -> None:
    of_stage = getattr(stage_precisions(target, precision), stage)
    onnx.checker.check_model(stage_graph(reader, graph(stage, target, of_stage)).model())


def operators(reader: Checkpoint, target: str, precision: str) -> dict[str, dict[str, int]]:
    chosen = stage_precisions(target, precision)
    return {stage: stage_graph(reader, graph(stage, target, getattr(chosen, stage))).operators() for stage in STAGES}


def test_for_tensorrt_encoder_and_q_former_use_standard_operators_only(reader: Checkpoint) -> None:
    found = operators(reader, "tensorrt", "fp16")
    for stage in ("vision_encoder", "qformer"):
        assert not [name for name in found[stage] if name.startswith(MICROSOFT)]
        assert [
            opset.domain for opset in stage_graph(reader, graph(stage, "tensorrt", "fp32")).model().opset_import
        ] == [""]
    assert found["decoder"] == operators(reader, "cuda", "fp16")["decoder"]


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_on_gpus_only_the_decoder_has_few_bits_and_its_output_layer_has_not(
    reader: Checkpoint, target: str, precision: str
) -> None:
    found = operators(reader, target, precision)
    assert f"{MICROSOFT}MatMulNBits" not in found["vision_encoder"] | found["qformer"]
    text = tiny_checkpoint.CONFIG["text_config"]
    assert found["decoder"][f"{MICROSOFT}MatMulNBits"] == 4 * text["num_hidden_layers"]
    assert found["decoder"][f"{MICROSOFT}FusedMatMul"] == 1


def test_in_fp16_weights_are_f16_and_softmax_and_logits_f32(reader: Checkpoint) -> None:
    for target in ("cuda", "tensorrt"):
        for stage in ("vision_encoder", "decoder"):
            model = stage_graph(reader, graph(stage, target, "fp16")).model()
            floats = {t.data_type for t in model.graph.initializer if len(t.dims) and t.data_type != TensorProto.INT64}
            assert floats == {TensorProto.FLOAT16}
    made = {name: node for node in model.graph.node for name in node.output}
    logits = made["logits"]
    assert (logits.op_type, {made[name].op_type for name in logits.input}) == ("FusedMatMul", {"Cast"})
    vision = stage_graph(reader, graph("vision_encoder", "tensorrt", "fp16")).model().graph
    made = {name: node for node in vision.node for name in node.output}
    for node in vision.node:
        if node.op_type == "Softmax":
            cast = made[node.input[0]]
            assert (cast.op_type, cast.attribute[0].i) == ("Cast", TensorProto.FLOAT)


def test_fp16_refuses_weights_beyond_its_range(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    weights["vision_model.encoder.layers.1.mlp.fc2.bias"][3] = 70000
    folder = tiny_checkpoint.write_checkpoint(tmp_path / "wide", weights=weights)
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.fc2\.bias: a weight exceeds the range of fp16"):
        export(ExportOptions(folder, tmp_path / "bundle", target="cuda"))
    assert not (tmp_path / "bundle").exists()
    export(ExportOptions(folder, tmp_path / "bundle", target="cuda", vision_encoder_precision="fp32"))


@pytest.mark.parametrize(("target", "precision"), ALL)
def test_no_bundle_is_larger_than_was_asked_of_the_disk(
    reader: Checkpoint, tmp_path: Path, target: str, precision: str
) -> None:
    document = export(ExportOptions(reader.folder, tmp_path / "bundle", target=target, precision=precision))
    written = sum(entry["bytes"] for entry in document["files"].values())
    assert written < bundle_bytes(reader, target, stage_precisions(target, precision))


@pytest.mark.parametrize(
    ("target", "precision", "least"),
    [
        ("cpu", "int8", 0.999),
        ("cpu", "int4", 0.98),
        ("cuda", "fp16", 0.99999),
        ("cuda", "int8", 0.9995),
        ("cuda", "int4", 0.98),
        ("tensorrt", "fp16", 0.99999),
    ],
)
def test_every_precision_answers_nearly_as_fp32(
    fp32_model: OnnxBlip2, reader: Checkpoint, tmp_path: Path, target: str, precision: str, least: float
) -> None:
    """A random model this small is a hard case for few bits; the limits say "the graph is right", no more."""
    export(ExportOptions(reader.folder, tmp_path / "bundle", target=target, precision=precision))
    model = OnnxBlip2(tmp_path / "bundle", threads=1)
    pixels, prompt, answer = tiny_checkpoint.pixel_values(), [2, 50, 77, 261, 9], [14, 30, 7, 21]
    logits = [m.teacher_forced(m.query(m.image_embeds(pixels))[1], prompt, answer) for m in (fp32_model, model)]
    norms = [np.linalg.norm(values, axis=-1) for values in logits]
    assert ((logits[0] * logits[1]).sum(-1) / norms[0] / norms[1]).min() > least
