"""The export: determinism, data files, and leaving nothing behind when it fails."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_checkpoint
from bundle_files import BUNDLES, content

from blip2_export.bundle import folder as bundle
from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.errors import ExportError
from blip2_export.graph.contract import contracts
from blip2_export.graph.graph_file import GraphFile
from blip2_export.graph.stage import Graph, stage_graph
from blip2_export.inference.session import open_session
from blip2_export.quantization.rounding import ROUNDINGS

ONNX_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)", "int32": "tensor(int32)"}


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("stage", ["vision_encoder", "qformer", "decoder"])
def test_the_graphs_have_the_signatures_of_the_contract(
    request: pytest.FixtureRequest, checkpoint: Path, name: str, stage: str
) -> None:
    session = open_session(request.getfixturevalue(name) / f"{stage}.onnx", threads=1)
    contract = contracts(Checkpoint(checkpoint).config, "cpu")[stage]
    for found, expected in (
        (session.get_inputs(), contract.inputs),
        (session.get_outputs(), contract.outputs),
    ):
        signature = [(value.name, value.type, tuple(value.shape)) for value in found]
        assert signature == [(spec.name, ONNX_TYPES[spec.dtype], spec.axes) for spec in expected]


@pytest.mark.parametrize("name", BUNDLES)
def test_two_exports_are_equal_to_the_byte(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path: Path, name: str
) -> None:
    first = request.getfixturevalue(name)
    export(ExportOptions(checkpoint, tmp_path / "again", precision=name.removesuffix("_bundle")))
    assert content(tmp_path / "again") == content(first)


def test_everybody_may_read_the_files(int8_bundle: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in int8_bundle.rglob("*")}
    assert modes == {0o644}
    assert stat.S_IMODE(int8_bundle.stat().st_mode) == 0o755


def test_a_failed_export_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        assert [path.name for path in tmp_path.iterdir()] != [], "the graphs were to be written by now"
        raise OSError("no space left on device")

    monkeypatch.setattr("blip2_export.bundle.writer.manifest", fail)
    with pytest.raises(OSError, match="no space"):
        export(ExportOptions(checkpoint, tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_in_a_data_file_and_mean_the_same(
    checkpoint: Path, fp32_bundle: Path, tmp_path: Path
) -> None:
    usual = os.umask(0o077)
    try:
        with GraphFile(tmp_path / "vision_encoder.onnx", inline_limit=1000) as file:
            builder = stage_graph(
                Checkpoint(checkpoint), Graph("vision_encoder", "cpu", "fp32", ROUNDINGS["optimized"]), file.store
            )
            entries = file.finish(builder.model())
    finally:
        os.umask(usual)
    assert entries == {name: bundle.file_entry(tmp_path / name) for name in entries}
    data = tmp_path / "vision_encoder.onnx.data"
    assert set(entries) == {"vision_encoder.onnx", data.name}
    assert stat.S_IMODE(data.stat().st_mode) == 0o644
    assert (tmp_path / "vision_encoder.onnx").stat().st_size < data.stat().st_size
    pixel_values = tiny_checkpoint.pixel_values()
    found, expected = (
        open_session(folder / "vision_encoder.onnx", 1).run(None, {"pixel_values": pixel_values})[0]
        for folder in (tmp_path, fp32_bundle)
    )
    np.testing.assert_array_equal(found, expected)


def test_the_first_self_attention_of_the_q_former_is_folded(fp32_bundle: Path) -> None:
    nodes = [node.name for node in onnx.load(fp32_bundle / "qformer.onnx").graph.node]
    attentions = [name for name in nodes if name.endswith((".attention.attention", "crossattention.attention"))]
    assert attentions == [
        "qformer.encoder.layer.0.crossattention.attention",
        "qformer.encoder.layer.1.attention.attention",
        "qformer.encoder.layer.2.attention.attention",
        "qformer.encoder.layer.2.crossattention.attention",
    ]


def test_a_full_disk_is_told_before_the_work_begins(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ExportError, match=r"the bundle takes about 0\.1 GB, 0\.0 GB are free"):
        export(ExportOptions(checkpoint, tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_one_line_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = GraphFile.store

    def fill_up(file: GraphFile, name: str, values: np.ndarray) -> onnx.TensorProto:
        if "layers.1" in name:
            file._stream.close()
            file._stream = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115  the file closes it
        return written(file, name, values)

    monkeypatch.setattr(GraphFile, "store", fill_up)
    with pytest.raises(ExportError, match=r"vision_encoder\.onnx\.data: No space left on device after \d+ bytes"):
        export(ExportOptions(checkpoint, tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []
