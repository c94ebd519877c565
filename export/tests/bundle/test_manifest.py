"""The manifest: files, signatures, options and operators."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import onnx
import pytest
import tiny_checkpoint
from bundle_files import BUNDLES, content, manifest

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.inference.session import open_session
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from pathlib import Path


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


def test_an_old_checkpoint_without_an_image_token_has_none_in_the_manifest(tmp_path: Path) -> None:
    document = tiny_checkpoint.config()
    del document["image_token_index"]
    folder = tiny_checkpoint.write_checkpoint(tmp_path / "old", document)
    export(ExportOptions(folder, tmp_path / "bundle"))
    assert manifest(tmp_path / "bundle")["tokenizer"]["image_token_id"] is None
    assert OnnxBlip2(tmp_path / "bundle").prompt_ids("<image>")[1:] != [tiny_checkpoint.IMAGE_TOKEN]


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
