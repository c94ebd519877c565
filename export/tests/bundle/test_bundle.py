"""The bundle folder: manifest, hashes, determinism, and being whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_checkpoint

from blip2_export.bundle import folder as bundle
from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.errors import ExportError
from blip2_export.graph.contract import contracts
from blip2_export.graph.graph_file import GraphFile
from blip2_export.graph.stage import Graph, stage_graph
from blip2_export.inference.session import open_session
from blip2_export.quantization.rounding import ROUNDINGS
from blip2_export.verification.onnx_blip2 import OnnxBlip2

Json = dict[str, Any]
BUNDLES = ["fp32_bundle", "int8_bundle"]
ONNX_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)", "int32": "tensor(int32)"}


def manifest(folder: Path) -> Json:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("name", BUNDLES)
def test_every_file_is_listed_with_its_hash_and_size(request: pytest.FixtureRequest, name: str) -> None:
    folder = request.getfixturevalue(name)
    files = content(folder)
    del files["manifest.json"]
    expected = {path: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for path, data in files.items()}
    assert manifest(folder)["files"] == expected


def test_the_manifest_says_what_the_documentation_promises(int8_bundle: Path) -> None:
    found = manifest(int8_bundle)
    config = tiny_checkpoint.CONFIG
    assert found["schema_version"] == 1
    assert (found["name"], found["target"]) == ("tiny", "cpu")
    assert found["precision"] == {"vision_encoder": "int8", "qformer": "fp32", "decoder": "int8"}
    assert found["image"] == {
        "height": 28,
        "width": 28,
        "mean": tiny_checkpoint.PREPROCESSOR["image_mean"],
        "std": tiny_checkpoint.PREPROCESSOR["image_std"],
        "preprocessing_version": 1,
    }
    vision = {key: found["vision_encoder"][key] for key in ("hidden_size", "num_tokens", "num_layers", "num_heads")}
    assert vision == {"hidden_size": 24, "num_tokens": 17, "num_layers": 2, "num_heads": 3}
    qformer = {key: found["qformer"][key] for key in ("hidden_size", "num_query_tokens", "num_layers", "num_heads")}
    assert qformer == {"hidden_size": 20, "num_query_tokens": 4, "num_layers": 3, "num_heads": 2}
    decoder = {key: value for key, value in found["decoder"].items() if key not in ("inputs", "outputs")}
    assert decoder == {
        "file": "decoder.onnx",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "head_dim": 8,
        "vocab_size": 272,
        "max_positions": 80,
        "past": "past_key_values.{layer}.{kind}",
        "present": "present.{layer}.{kind}",
        "kv_dtype": "float32",
        "kv_layout": ["rows", "heads", "max_len", "head_dim"],
    }
    assert found["tokenizer"] == {
        "file": "tokenizer.json",
        "bos_token_id": 2,
        "eos_token_id": config["text_config"]["eos_token_id"],
        "pad_token_id": 1,
        "image_token_id": config["image_token_index"],
    }
    assert found["tools"]["onnx"] == onnx.__version__


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


def test_the_manifest_names_every_graph_input_and_output(fp32_bundle: Path) -> None:
    found = manifest(fp32_bundle)
    for stage in ("vision_encoder", "qformer", "decoder"):
        session = open_session(fp32_bundle / found[stage]["file"], threads=1)
        names = {*found[stage]["inputs"].values(), *found[stage]["outputs"].values()}
        for template in ("past", "present"):
            for layer in range(found[stage]["num_layers"]):
                for kind in ("key", "value"):
                    if template in found[stage]:
                        names.add(found[stage][template].format(layer=layer, kind=kind))
        assert names == {value.name for value in [*session.get_inputs(), *session.get_outputs()]}


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


def test_a_bundle_is_replaced_only_with_force(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    export(ExportOptions(checkpoint, output, name="first"))
    with pytest.raises(ExportError, match="--force"):
        export(ExportOptions(checkpoint, output, name="second"))
    assert manifest(output)["name"] == "first"
    export(ExportOptions(checkpoint, output, name="second", force=True))
    assert manifest(output)["name"] == "second"
    assert list(tmp_path.iterdir()) == [output]


def test_force_does_not_replace_a_folder_that_is_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no manifest\.json"):
        export(ExportOptions(checkpoint, tmp_path / "photos", force=True))
    assert (tmp_path / "photos" / "cat.jpg").exists()


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


def test_an_old_checkpoint_without_an_image_token_has_none_in_the_manifest(tmp_path: Path) -> None:
    document = tiny_checkpoint.config()
    del document["image_token_index"]
    folder = tiny_checkpoint.write_checkpoint(tmp_path / "old", document)
    export(ExportOptions(folder, tmp_path / "bundle"))
    assert manifest(tmp_path / "bundle")["tokenizer"]["image_token_id"] is None
    assert OnnxBlip2(tmp_path / "bundle").prompt_ids("<image>")[1:] != [tiny_checkpoint.IMAGE_TOKEN]


def test_added_files_replace_older_ones_and_are_listed(int8_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    owned = ("parity.json", "golden/")
    bundle.replace_files(folder, owned, {"parity.json": b"{}", "golden/a.png": b"a", "golden/b.png": b"b"})
    bundle.replace_files(folder, owned, {"parity.json": b"[]", "golden/b.png": b"B"})
    assert not (folder / "golden" / "a.png").exists()
    assert manifest(folder)["files"]["parity.json"]["sha256"] == hashlib.sha256(b"[]").hexdigest()
    assert set(manifest(folder)["files"]) == set(content(folder)) - {"manifest.json"}
    bundle.check_files(folder, manifest(folder))


def test_interrupted_additions_leave_a_manifest_that_holds(
    int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    bundle.replace_files(folder, ("golden/",), {"golden/a.png": b"old", "golden/b.png": b"old"})
    write = bundle.write_file

    def fail_at_b(path: Path, data: bytes) -> None:
        if path.name == "b.png":
            raise OSError("no space left on device")
        write(path, data)

    monkeypatch.setattr(bundle, "write_file", fail_at_b)
    with pytest.raises(OSError, match="no space"):
        bundle.replace_files(folder, ("golden/",), {"golden/a.png": b"new", "golden/b.png": b"new"})
    bundle.check_files(folder, manifest(folder))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_named(int8_bundle: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    path = folder / "qformer.onnx"
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ExportError, match=r"qformer\.onnx"):
        bundle.check_files(folder, manifest(folder))


@pytest.mark.parametrize("name", ["../outside", "/etc/hosts", "golden/../../outside"])
def test_a_manifest_that_names_files_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "files": {name: {}}}))
    with pytest.raises(ExportError, match="points outside the bundle; do not use"):
        bundle.read_manifest(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 2, "files": {}}))
    with pytest.raises(ExportError, match="schema_version is 2"):
        bundle.read_manifest(tmp_path)


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


def test_the_manifest_records_every_option_and_operator(checkpoint: Path, tmp_path: Path) -> None:
    export(ExportOptions(checkpoint, tmp_path / "bundle", precision="int4", rounding="nearest", name="plain"))
    recorded = manifest(tmp_path / "bundle")["export"]
    assert recorded["options"] == {
        "target": "cpu",
        "precision": "int4",
        "vision_encoder_precision": None,
        "decoder_precision": None,
        "rounding": "nearest",
        "calibration": None,
        "name": "plain",
    }
    for stage, counted in recorded["operators"].items():
        nodes = onnx.load(tmp_path / "bundle" / f"{stage}.onnx").graph.node
        assert sum(counted.values()) == len(nodes)
        assert set(counted) == {f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes}


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
