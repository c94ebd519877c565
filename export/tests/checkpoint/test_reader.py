"""Checkpoint folders: tensors, damage, provenance, identity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_checkpoint
from tiny_checkpoint import write_checkpoint

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.reader import EMBED_TOKENS, LM_HEAD, Checkpoint
from blip2_export.checkpoint.tensors import tensor_shapes
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "name",
    [
        "query_tokens",
        "vision_model.encoder.layers.1.mlp.fc1.weight",
        "qformer.encoder.layer.0.attention.output.dense.bias",
        "language_projection.weight",
        "language_model.model.decoder.layers.1.final_layer_norm.bias",
    ],
)
def test_a_missing_or_misshapen_tensor_is_refused_by_name(tmp_path: Path, name: str) -> None:
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    changed = {**weights, name: weights[name][..., :-1]}
    del weights[name]
    for folder, values, reason in (("missing", weights, "is missing"), ("cut", changed, "has shape")):
        source = write_checkpoint(tmp_path / folder, weights=values)
        with pytest.raises(ExportError) as refused:
            export(ExportOptions(source, tmp_path / "bundle"))
        assert f"tensor {name} {reason}" in str(refused.value)
    assert not (tmp_path / "bundle").exists()


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ExportError, match=r"model-00002-of-00002\.safetensors: file not found"):
        export(ExportOptions(folder, tmp_path / "bundle"))


def test_a_truncated_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"model\.safetensors: not a readable safetensors file"):
        Checkpoint(folder)


@pytest.mark.parametrize("stored", ["F32", "BF16"])
def test_tensors_are_read_as_f32_whatever_their_stored_type(tmp_path: Path, stored: str) -> None:
    dtype = {"F32": "float32", "BF16": "bfloat16"}[stored]
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "tiny", dtype=dtype, shards=3))
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    for name in ("query_tokens", EMBED_TOKENS):
        found = checkpoint.tensor(name, weights[name].shape)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, weights[name].astype(tiny_checkpoint.DTYPES[dtype]).astype("f4"))


def test_an_integer_tensor_is_refused(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    folder = write_checkpoint(tmp_path / "tiny", weights=weights)
    weights["query_tokens"] = weights["query_tokens"].astype(np.int32)
    tiny_checkpoint.save_file(weights, folder / "model.safetensors")
    with pytest.raises(ExportError, match="query_tokens is stored as I32"):
        Checkpoint(folder).tensor("query_tokens", weights["query_tokens"].shape)


def test_a_stored_output_layer_must_be_the_token_table(tmp_path: Path) -> None:
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    weights[LM_HEAD] = weights[EMBED_TOKENS].copy()
    Checkpoint(write_checkpoint(tmp_path / "tied", weights=weights))
    weights[LM_HEAD][3, 3] += 1
    with pytest.raises(ExportError, match="only tied weights"):
        Checkpoint(write_checkpoint(tmp_path / "untied", weights=weights))


def test_the_provenance_lists_every_file_that_was_read(checkpoint: Path, fp32_bundle: Path) -> None:
    manifest = json.loads((fp32_bundle / "manifest.json").read_text(encoding="utf-8"))
    unread = {path.name for path in checkpoint.iterdir()} - set(manifest["checkpoint"]["files"])
    assert unread == set()
    assert manifest["checkpoint"]["id"] == "tiny"


def test_a_hub_cache_folder_gives_repository_and_revision(tmp_path: Path) -> None:
    folder = tmp_path / "models--Salesforce--blip2-opt-2.7b" / "snapshots" / "abc123"
    identity = Checkpoint(write_checkpoint(folder)).identity()
    assert (identity.id, identity.revision) == ("Salesforce/blip2-opt-2.7b", "abc123")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_weight_that_is_no_number_is_named_with_its_place(tmp_path: Path, value: float, dtype: str) -> None:
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    weights["language_model.model.decoder.layers.1.fc1.weight"][7, 3] = value
    folder = write_checkpoint(tmp_path / "tiny", weights=weights, dtype=dtype, shards=2)
    with pytest.raises(ExportError, match=r"safetensors: tensor .*layers\.1\.fc1\.weight holds (nan|inf) at \[7, 3\]"):
        export(ExportOptions(folder, tmp_path / "bundle"))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_tensor_that_the_index_promises_and_its_file_lacks_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, file = next(iter(index["weight_map"].items()))
    other = next(value for value in index["weight_map"].values() if value != file)
    index["weight_map"][name] = other
    path.write_text(json.dumps(index))
    with pytest.raises(ExportError, match=f"{other}: tensor {name} is missing"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    "content", ['{"weight_map": []}', "{}", '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 1}}']
)
def test_an_index_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny", shards=2)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ExportError, match=r"index\.json"):
        Checkpoint(folder)


def test_missing_tensors_are_found_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    del weights["language_model.model.decoder.layers.1.fc2.bias"]
    folder = write_checkpoint(tmp_path / "tiny", weights=weights)
    monkeypatch.setattr("blip2_export.bundle.writer.new_bundle", lambda *_, **__: pytest.fail("the work had begun"))
    with pytest.raises(ExportError, match=r"tensor language_model\.model\.decoder\.layers\.1\.fc2\.bias is missing"):
        export(ExportOptions(folder, tmp_path / "bundle"))


def test_a_folder_downloaded_with_its_metadata_gives_the_revision(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "blip2-opt-2.7b")
    metadata = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("59a1ef6c1e5117b3f65523d1c6066825bcf315e3\netag\n1732000000.0\n")
    identity = Checkpoint(folder).identity()
    assert (identity.id, identity.revision) == ("blip2-opt-2.7b", "59a1ef6c1e5117b3f65523d1c6066825bcf315e3")


def test_reading_a_tensor_tells_its_bytes(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_checkpoint(tmp_path / "tiny", dtype="float16"))
    told: list[int] = []
    checkpoint.on_read = told.append
    total = checkpoint.require(tensor_shapes(checkpoint.config))
    for name, shape in [*tensor_shapes(checkpoint.config).items()] * 2:  # the second time is no progress
        checkpoint.tensor(name, shape)
    assert (
        sum(told)
        == total
        == 2 * sum(values.size for values in tiny_checkpoint.tensors(tiny_checkpoint.CONFIG).values())
    )
