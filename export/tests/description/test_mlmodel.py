"""MLmodel, as far as it can be told without MLflow; tests/deploy/mlflow loads and registers it for real."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from blip2_export.description.documents import documents

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]

PUBLISHED_INPUTS = '[{"type":"binary","name":"image","required":true},{"type":"string","name":"text","required":true}]'
PUBLISHED_OUTPUTS = '[{"type":"string","name":"text","required":true}]'


@pytest.fixture(scope="session")
def content(int8_bundle: Path) -> Json:
    return yaml.safe_load((int8_bundle / "MLmodel").read_text())


def test_the_signature_is_the_published_one(content: Json) -> None:
    signature = content["signature"]
    assert json.loads(signature["inputs"]) == json.loads(PUBLISHED_INPUTS)
    assert json.loads(signature["outputs"]) == json.loads(PUBLISHED_OUTPUTS)
    assert signature["params"] is None
    assert set(signature) == {"inputs", "outputs", "params"}


def test_the_flavor_names_the_files_of_the_bundle(content: Json, int8_bundle: Path) -> None:
    flavor = content["flavors"]["blip2_onnx"]
    assert sorted(flavor["graphs"]) == ["decoder", "qformer", "vision_encoder"]
    for name in (*flavor["graphs"].values(), *flavor["external_data"], flavor["tokenizer"], flavor["manifest"]):
        assert (int8_bundle / name).is_file()
    assert flavor["precision"] == {"vision_encoder": "int8", "qformer": "fp32", "decoder": "int8"}
    assert content["flavors"]["python_function"] == {"loader_module": "blip2_onnx.pyfunc"}


def test_it_holds_nothing_that_differs_by_run(content: Json) -> None:
    assert set(content) == {"flavors", "metadata", "model_size_bytes", "signature"}


def test_weights_beside_a_graph_are_in_every_document(int8_bundle: Path) -> None:
    manifest = json.loads((int8_bundle / "manifest.json").read_text())
    name, digest = "decoder.onnx.data", "e" * 64
    manifest["files"][name] = {"sha256": digest, "bytes": 3_000_000_000}
    found = {file: content.decode() for file, content in documents(manifest).items()}
    assert yaml.safe_load(found["MLmodel"])["flavors"]["blip2_onnx"]["external_data"] == [name]
    assert yaml.safe_load(found["MLmodel"])["model_size_bytes"] > 3_000_000_000
    assert f"| `{name}` | 3.00 GB | `{digest}` |" in found["README.md"]
    assert digest in found["bom.cdx.json"]
