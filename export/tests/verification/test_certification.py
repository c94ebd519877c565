"""`verify` from a bundle to its certificate, page and golden answers: passed, missed, and refused."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from blip2_export import cli
from blip2_export.hashing import file_entry
from blip2_export.verification.sample_images import save_images

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Three cases on two drawn images."""
    images = save_images(tmp_path, 2)
    texts = ("", "Question: what? Answer:", "")
    entries = [
        {"name": f"case-{i}", "image": images[i % 2].name, "text": text, "max_new_tokens": 6}
        for i, text in enumerate(texts)
    ]
    entries[2]["text"] = "a"
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": entries}))
    return path


@pytest.mark.reference
def test_verify_passes_and_certifies_a_good_bundle(
    checkpoint: Path, fp32_bundle: Path, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    arguments = ["verify", "--checkpoint", str(checkpoint), "--bundle", str(folder), "--cases", str(cases)]
    assert cli.main([*arguments, "--golden", "2"]) == 0
    assert capsys.readouterr().out.endswith("passed\n")
    certificate = json.loads((folder / "parity.json").read_text())
    assert certificate["passed"]
    assert certificate["greedy"] == {"cases": 3, "equal_share": 1.0, "token_agreement": 1.0}
    golden = json.loads((folder / "golden" / "cases.json").read_text())
    assert 0 < len(golden["cases"]) <= 2
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"parity.json", "golden/cases.json"} <= set(listed)
    told = (folder / "README.md").read_text()
    assert "Not verified" in (fp32_bundle / "README.md").read_text()
    assert "**Passed** all limits of its precision" in told
    assert "- 100 % of the greedy answers are equal" in told
    card = json.loads((folder / "bom.cdx.json").read_text())["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"][0]["value"] == "passed"
    assert {name: file_entry(folder / name) for name in listed} == listed


@pytest.mark.reference
def test_verify_fails_a_bundle_of_other_weights_and_still_certifies(
    checkpoint: Path, fp32_bundle: Path, int8_bundle: Path, cases: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    name = "vision_encoder.onnx"
    shutil.copy(int8_bundle / name, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = json.loads((int8_bundle / "manifest.json").read_text())["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    arguments = ["verify", "--checkpoint", str(checkpoint), "--bundle", str(folder), "--cases", str(cases)]
    assert cli.main(arguments) == 1
    certificate = json.loads((folder / "parity.json").read_text())
    assert not certificate["passed"]
    assert any(miss.startswith("image_embeds") for miss in certificate["misses"])
    assert "**Missed** limits of its precision" in (folder / "README.md").read_text()


@pytest.mark.reference
def test_verify_refuses_another_checkpoint(
    checkpoint: Path, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert cli.main(["verify", "--checkpoint", str(other), "--bundle", str(fp32_bundle)]) == 2
    assert "name its own checkpoint" in capsys.readouterr().err
