"""The verify command from end to end: what it writes, when it fails, and what it refuses before long work."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from blip2_export import cli
from blip2_export.verification.sample_images import save_images

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.reference


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two short cases on two drawn images."""
    images = save_images(tmp_path, 2)
    entries = [{"image": image.name, "text": "a", "max_new_tokens": 4} for image in images]
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": entries}))
    return path


def verify(checkpoint: Path, bundle: Path, cases: Path, *more: str) -> int:
    arguments = ["verify", "--checkpoint", str(checkpoint), "--bundle", str(bundle), "--cases", str(cases)]
    return cli.main([*arguments, *more])


def parity(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "parity.json").read_text())


@pytest.mark.parametrize("name", ["fp32_bundle", "int8_bundle"])
def test_the_certificate_holds_every_measure(
    request: pytest.FixtureRequest, checkpoint: Path, cases: Path, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(request.getfixturevalue(name), tmp_path / "bundle")
    assert verify(checkpoint, folder, cases, "--beams", "3", "--beam-cases", "1") == 0
    found = parity(folder)
    assert found["passed"]
    assert all(check["passed"] for check in found["checks"])
    assert found["decoder_alone"]["positions"] == found["logits"]["positions"] > 0
    assert found["beam"]["cases"] == 3
    assert {len(layers) for layers in found["layers"].values()} == {2}
    assert [phase["name"] for phase in found["cost"]["phases"]][1:3] == [
        "reference, vision encoder",
        "reference, Q-Former",
    ]
    assert list(found["thresholds"]) == (["fp32"] if name == "fp32_bundle" else ["int8"])
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"parity.json", "parity.html"} <= set(listed)


def test_verifying_twice_gives_the_same_page(checkpoint: Path, int8_bundle: Path, cases: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(int8_bundle, tmp_path / "bundle")
    pages = []
    for _ in range(2):
        assert verify(checkpoint, folder, cases, "--beams", "0") == 0
        pages.append((folder / "parity.html").read_bytes())
    assert pages[0] == pages[1]
    assert parity(folder)["beam"]["cases"] == 0


def test_too_little_memory_is_said_before_anything_is_run(
    checkpoint: Path,
    fp32_bundle: Path,
    cases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    monkeypatch.setattr("blip2_export.verification.verify.available_bytes", lambda: 400_000_000)
    assert verify(checkpoint, folder, cases) == 2
    message = capsys.readouterr().err
    assert "verifying needs 1.5 GB of memory (for the " in message
    assert "0.4 GB are free" in message
    assert "vision encoder" not in message
    assert not (folder / "parity.json").exists()


def test_a_graph_that_the_cpu_cannot_run_is_one_line(
    checkpoint: Path, fp32_bundle: Path, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from blip2_export.hashing import file_entry

    folder = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    path = folder / "qformer.onnx"
    path.write_bytes(path.read_bytes().replace(b"MultiHeadAttention", b"MultiHeadAttentiom"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path.name] = file_entry(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert verify(checkpoint, folder, cases) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "qformer.onnx: ONNX Runtime cannot run this graph on the CPU, where bundles are verified (" in last


@pytest.mark.parametrize("arguments", [["--beams", "1"], ["--beams", "-2"], ["--beam-cases", "x"]])
def test_a_senseless_number_is_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verify(tmp_path, tmp_path, tmp_path, *arguments)
    assert ended.value.code == 2
