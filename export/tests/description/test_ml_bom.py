"""The bill of materials of the weights: valid CycloneDX, complete, and the same for the same bundle."""

from __future__ import annotations

import copy
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from blip2_export.description.documents import documents
from blip2_export.description.origin import SHAPES_WEIGHTS
from blip2_export.hashing import file_entry

Json = dict[str, Any]

COMMITTED = Path(__file__).parents[3] / "onnx"
UNKNOWN, PUBLISHED, SHAPES = "tiny", "Salesforce/blip2-opt-2.7b", "checkpoint"


@pytest.fixture(scope="session")
def manifest(int8_bundle: Path) -> Json:
    return json.loads((int8_bundle / "manifest.json").read_text())


@pytest.fixture(scope="session")
def certificate() -> Json:
    return json.loads((COMMITTED / "blip2-shapes-int8" / "parity.json").read_text())


def of(manifest: Json, checkpoint: str) -> Json:
    """The manifest of the same bundle, had it come from another checkpoint."""
    changed = copy.deepcopy(manifest)
    changed["checkpoint"] |= {"id": checkpoint, "revision": "0f" * 20 if checkpoint == PUBLISHED else None}
    if checkpoint == SHAPES:
        changed["checkpoint"]["files"]["model.safetensors"] = {"sha256": SHAPES_WEIGHTS, "bytes": 1}
    return changed


def bom(manifest: Json, certificate: Json | None = None) -> Json:
    return json.loads(documents(manifest, certificate)["bom.cdx.json"])


def faults(document: Json) -> str | None:
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    return found and str(found)


@pytest.mark.parametrize("name", [UNKNOWN, PUBLISHED, SHAPES])
@pytest.mark.parametrize("is_verified", [True, False])
def test_it_is_valid_by_the_schema(manifest: Json, certificate: Json, name: str, is_verified: bool) -> None:
    document = bom(of(manifest, name), certificate if is_verified else None)
    assert document["specVersion"] == "1.6"
    assert faults(document) is None


@pytest.mark.parametrize(
    ("place", "value"),
    [("task", 5), ("approach", {"type": "guessing"}), ("inputs", ["image"]), ("colour", "red")],
)
def test_the_schema_knows_a_broken_model_card(manifest: Json, place: str, value: object) -> None:
    document = bom(manifest)
    document["metadata"]["component"]["modelCard"]["modelParameters"][place] = value
    assert faults(document) is not None


def test_every_file_has_its_hash(int8_bundle: Path, checkpoint: Path, manifest: Json) -> None:
    components = {component["bom-ref"]: component for component in bom(manifest)["components"]}
    source = components.pop("checkpoint")
    files = {name: file_entry(int8_bundle / name) for name in manifest["files"]}
    for name in ("MLmodel", "README.md", "bom.cdx.json"):
        del files[name]
    assert _hashes(components.values()) == {name: entry["sha256"] for name, entry in files.items()}
    read = {name: file_entry(checkpoint / name)["sha256"] for name in manifest["checkpoint"]["files"]}
    assert len(read) > 4
    assert _hashes(source["components"]) == read


def _hashes(components: Any) -> dict[str, str]:  # noqa: ANN401  views and lists of them
    for component in components:
        assert [entry["alg"] for entry in component["hashes"]] == ["SHA-256"]
    return {component["name"]: component["hashes"][0]["content"] for component in components}


def test_source_and_revision_are_named(manifest: Json) -> None:
    document = bom(of(manifest, PUBLISHED))
    source = next(component for component in document["components"] if component["bom-ref"] == "checkpoint")
    assert (source["type"], source["name"], source["version"]) == ("machine-learning-model", PUBLISHED, "0f" * 20)
    assert source["externalReferences"][0]["url"] == f"https://huggingface.co/{PUBLISHED}/tree/{'0f' * 20}"
    assert source["pedigree"]["ancestors"][0]["name"] == "facebook/opt-2.7b"
    assert document["metadata"]["component"]["pedigree"]["ancestors"][0]["name"] == PUBLISHED
    subject = next(entry for entry in document["dependencies"] if entry["ref"] == "bundle")
    assert {"checkpoint", "bundle:decoder.onnx"} <= set(subject["dependsOn"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (UNKNOWN, ["unknown; ask whoever published the checkpoint"]),
        (PUBLISHED, ["MIT", "OPT-175B License Agreement"]),
        (SHAPES, ["MIT"]),
    ],
)
def test_the_licences_are_those_of_the_checkpoint(manifest: Json, name: str, expected: list[str]) -> None:
    document = bom(of(manifest, name))
    source = next(component for component in document["components"] if component["bom-ref"] == "checkpoint")
    for component in (source, document["metadata"]["component"]):
        named = [choice["license"].get("id") or choice["license"]["name"] for choice in component["licenses"]]
        assert sorted(named) == expected


def test_the_model_card_tells_limits_and_what_was_measured(manifest: Json, certificate: Json) -> None:
    card = bom(of(manifest, PUBLISHED), certificate)["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["task"] == "visual-question-answering"
    told = json.dumps(card["considerations"])
    assert "2301.12597" in told
    assert "2205.01068" in told
    metrics = {entry["type"]: entry["value"] for entry in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["parity with transformers"] == "passed"
    assert metrics["equal greedy answers"] == "99.17 %"
    assert "quantitativeAnalysis" not in bom(manifest)["metadata"]["component"]["modelCard"]


def test_it_holds_no_time_and_its_number_follows_from_the_content(manifest: Json, certificate: Json) -> None:
    assert documents(manifest) == documents(copy.deepcopy(manifest))
    document = bom(manifest)
    assert "timestamp" not in document["metadata"]
    number = uuid.UUID(document["serialNumber"].removeprefix("urn:uuid:"))
    assert number.version == 5
    assert bom(manifest, certificate)["serialNumber"] != document["serialNumber"]
    changed = copy.deepcopy(manifest)
    changed["files"]["decoder.onnx"]["sha256"] = "0" * 64
    assert bom(changed)["serialNumber"] != document["serialNumber"]


def test_what_else_the_bundle_holds_changes_nothing(manifest: Json) -> None:
    """So the documents, which are listed themselves, can be made again from the finished manifest."""
    bare = copy.deepcopy(manifest)
    for name in ("MLmodel", "README.md", "bom.cdx.json"):
        del bare["files"][name]
    more = copy.deepcopy(manifest)
    more["files"]["golden/cases.json"] = {"sha256": "1" * 64, "bytes": 5}
    assert documents(bare) == documents(manifest) == documents(more)
