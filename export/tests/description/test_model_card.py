"""The model card of a bundle: what the hub reads of it, and what it may and must say of each kind of checkpoint."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from blip2_export.description.documents import documents
from blip2_export.description.origin import PUBLISHED, SHAPES_WEIGHTS, origin_of

Json = dict[str, Any]

COMMITTED = Path(__file__).parents[3] / "onnx"
COMMIT = "6e723d92ee91ebcee4ba74d7017632f11ff4217b"
OPT_TERMS = "OPT-175B License Agreement"


@pytest.fixture(scope="session")
def manifest(int8_bundle: Path) -> Json:
    return json.loads((int8_bundle / "manifest.json").read_text())


@pytest.fixture(scope="session")
def certificate() -> Json:
    """That of the tiny model in int8, where not every answer is equal."""
    return json.loads((COMMITTED / "blip2-shapes-int8" / "parity.json").read_text())


def of(manifest: Json, checkpoint: str, revision: str | None = None) -> Json:
    """The manifest of the same bundle, had it come from another checkpoint."""
    changed = copy.deepcopy(manifest)
    changed["checkpoint"] |= {"id": checkpoint, "revision": revision}
    return changed


def card(manifest: Json, certificate: Json | None = None) -> str:
    return documents(manifest, certificate)["README.md"].decode()


def front(text: str) -> Json:
    return ModelCard(text).data.to_dict()


@pytest.mark.parametrize("repository", PUBLISHED)
def test_a_published_checkpoint_has_both_licences_and_its_limits(manifest: Json, repository: str) -> None:
    text = card(of(manifest, repository, COMMIT))
    assert front(text) == {
        "language": "en",
        "license": "other",
        "license_name": "mit-and-opt-175b-license-agreement",
        "license_link": "https://github.com/facebookresearch/metaseq/blob/main/projects/OPT/MODEL_LICENSE.md",
        "base_model": repository,
        "base_model_relation": "quantized",
        "pipeline_tag": "visual-question-answering",
        "library_name": "onnx",
        "tags": ["onnx", "onnxruntime", "blip-2", "opt", "image-to-text", "cpu", "fp32", "int8"],
    }
    for part in (
        f"`{repository}`, revision `{COMMIT}`",
        "[MIT](",
        OPT_TERMS,
        PUBLISHED[repository],
        "for you to check",
    ):
        assert part in text
    for source in ("arxiv.org/abs/2301.12597", "arxiv.org/abs/2205.01068", "huggingface.co/Salesforce/blip2-opt-2.7b"):
        assert f"{source})" in text, "every limit names its source"


def test_a_plain_download_is_known_by_its_commit(manifest: Json) -> None:
    assert origin_of(of(manifest, "my-download", COMMIT)).repository == "Salesforce/blip2-opt-2.7b"
    assert origin_of(of(manifest, "my-download", COMMIT[:-1] + "c")).repository is None


@pytest.mark.parametrize("name", ["blip2-opt-2.7b", "tiny", "somebody/blip2-opt-2.7b", "salesforce/blip2-opt-2.7b"])
def test_a_name_alone_claims_no_licence(manifest: Json, name: str) -> None:
    text = card(of(manifest, name))
    assert front(text)["license"] == "unknown"
    assert front(text).get("base_model") == (name if "/" in name else None)
    assert "- unknown; ask whoever published the checkpoint: all weights" in text
    assert "[MIT]" not in text
    assert "Of this checkpoint nothing is known" in text


def test_the_tiny_model_is_known_by_the_hash_of_its_weights(manifest: Json) -> None:
    tiny = of(manifest, "checkpoint")
    tiny["checkpoint"]["files"]["model.safetensors"] = {"sha256": SHAPES_WEIGHTS, "bytes": 1}
    text = card(tiny)
    assert front(text)["license"] == "mit"
    assert "- MIT: all weights" in text
    assert OPT_TERMS not in text
    tiny["checkpoint"]["files"]["model.safetensors"]["sha256"] = "0" * 64
    assert front(card(tiny))["license"] == "unknown"


def test_only_few_bits_are_called_quantized(fp32_bundle: Path) -> None:
    fp32 = json.loads((fp32_bundle / "manifest.json").read_text())
    assert "base_model_relation" not in front(card(of(fp32, "Salesforce/blip2-opt-2.7b")))


def test_every_file_of_model_and_checkpoint_is_there_with_its_hash(manifest: Json) -> None:
    text = card(manifest)
    told = ("decoder.onnx", "qformer.onnx", "vision_encoder.onnx", "tokenizer.json")
    graphs = {name: entry for name, entry in manifest["files"].items() if name.startswith(told)}
    assert len(graphs) >= len(told)
    for name, entry in [*graphs.items(), *manifest["checkpoint"]["files"].items()]:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |") and entry["sha256"] in line)
        assert row.count("|") == 4
    assert "vision encoder int8, Q-Former fp32, decoder int8, opset 21" in text


def test_a_bundle_that_was_not_compared_says_so(manifest: Json) -> None:
    assert "Not verified." in card(manifest)


def test_the_certificate_is_told_in_words(manifest: Json, certificate: Json) -> None:
    text = card(manifest, certificate)
    assert "Not verified" not in text
    assert "**Passed** all limits of its precision, compared with transformers 5.23.0, fp32, cpu" in text
    assert "- 99.17 % of the greedy answers are equal" in text
    assert "- 100 % of 12 beam-search answers are equal" in text


def test_a_missed_limit_is_told_too(manifest: Json, certificate: Json) -> None:
    missed = {**certificate, "passed": False, "misses": ["logits: the cosine is 0.5, the limit 0.9"]}
    text = card(manifest, missed)
    assert "**Missed** limits" in text
    assert "- Missed: logits: the cosine is 0.5, the limit 0.9" in text
    assert "**Passed**" not in text


def test_what_is_not_all_is_never_rounded_to_100(manifest: Json, certificate: Json) -> None:
    nearly = {**certificate, "greedy": {"cases": 100_000, "equal_share": 0.99999, "token_agreement": 0.99999}}
    assert "- under 100 % of the greedy answers" in card(manifest, nearly)


def test_a_name_of_two_lines_makes_no_second_heading(manifest: Json) -> None:
    assert "# one ## two\n" in card({**manifest, "name": "one\n## two"})


@pytest.mark.parametrize("name", ["blip2-shapes", "blip2-shapes-int8"])
def test_the_committed_bundles_hold_the_documents_of_their_manifest(name: str) -> None:
    folder = COMMITTED / name
    manifest = json.loads((folder / "manifest.json").read_text())
    certificate = json.loads((folder / "parity.json").read_text())
    for file, content in documents(manifest, certificate).items():
        assert (folder / file).read_bytes() == content, f"python -m blip2_export describe --bundle onnx/{name}"
