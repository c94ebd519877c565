"""Exports that know what their layers will see: reading the rows, GPTQ in the decoder, smoothing for int8."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_checkpoint

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.errors import ExportError
from blip2_export.graph.groups import dequantize
from blip2_export.inference.session import open_session, with_outputs
from blip2_export.inference.step import Step, step_inputs
from blip2_export.quantization import gptq_rounding
from blip2_export.quantization.calibration import Calibration, pixel_values, read_rows, rows_digest
from blip2_export.quantization.gptq_rounding import GptqRounding
from blip2_export.quantization.rounding import round_to_nearest
from blip2_export.verification.onnx_blip2 import OnnxBlip2
from blip2_export.verification.sample_images import save_images

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
DECODER = "language_model.model.decoder"
TEXTS = ("", "Question: what is that? Answer:", "that hat")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn images and three prompts."""
    folder = tmp_path_factory.mktemp("calibration")
    save_images(folder, 4)
    (folder / "prompts.txt").write_text("\n".join(TEXTS) + "\n")
    return folder


def manifest(folder: Path) -> Json:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_every_image_is_taken_with_every_prompt(images: Path) -> None:
    rows = read_rows(images)
    assert len(rows) == 12
    assert {row.text for row in rows} == set(TEXTS)
    assert len({row.image for row in rows}) == 4


def test_a_cases_file_lists_the_rows_with_their_answers(images: Path, tmp_path: Path) -> None:
    cases = [{"image": "a.png", "text": "Question: what? Answer:", "answer": "a hat"}, {"image": "b.png", "text": ""}]
    (tmp_path / "cases.json").write_text(json.dumps({"cases": cases}))
    texts = [(row.image.name, row.text) for row in read_rows(tmp_path)]
    assert texts == [("a.png", "Question: what? Answer: a hat"), ("b.png", "")]


@pytest.mark.parametrize("content", [None, "{}", '{"cases": [{"text": "a"}]}', '{"cases": []}', "[", '{"cases": [3]}'])
def test_a_folder_without_rows_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "cases.json").write_text(content)
    with pytest.raises(ExportError, match=str(tmp_path)):
        read_rows(tmp_path)


def test_a_broken_image_is_named_and_nothing_is_left(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ExportError, match=r"torn\.png: not a readable image"):
        export(ExportOptions(checkpoint, tmp_path / "bundle", calibration=tmp_path / "rows"))
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_calibration_without_anything_rounded_is_refused(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    for target, precision in (("cpu", "fp32"), ("cuda", "fp16")):
        with pytest.raises(ExportError, match="nothing to calibrate"):
            export(ExportOptions(checkpoint, tmp_path / "b", target=target, precision=precision, calibration=images))


def test_the_manifest_tells_the_rows_by_their_hash_and_the_bytes_are_the_same_again(
    checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        export(ExportOptions(checkpoint, tmp_path / name, precision="int4", name="x", calibration=images))
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")
    recorded = manifest(tmp_path / "one")["export"]["options"]["calibration"]
    assert recorded == {"rows": 12, "sha256": rows_digest(read_rows(images))}
    assert not list((tmp_path / "one").glob("*/"))


@pytest.fixture(scope="module")
def calibration(checkpoint: Path, fp32_bundle: Path, images: Path) -> Calibration:
    return Calibration(read_rows(images), fp32_bundle, manifest(fp32_bundle)["image"], Checkpoint(checkpoint).config)


def hidden_states(bundle: Path, names: list[str], calibration: Calibration) -> list[np.ndarray]:
    """Tensors of the decoder graph on all rows, behind one another."""
    graph = bundle / "decoder.onnx"
    session = open_session(graph, model=with_outputs(graph, names))
    decoder = manifest(bundle)["decoder"]
    found = []
    for prefix, ids in calibration.prompts():
        feed = step_inputs(Step(prefix[None], [ids], [0], np.zeros((1, 1), np.int64)))
        for layer in range(decoder["num_layers"]):
            for kind in ("key", "value"):
                feed[decoder["past"].format(layer=layer, kind=kind)] = np.zeros((1, 4, 0, 8), np.float32)
        found.append(session.run(names, feed))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def test_the_rows_travel_through_the_decoder_as_the_graph_computes(
    checkpoint: Path, fp32_bundle: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rounding to 8 bits the states stay near the graph's; a wrong step would be far off at once."""
    monkeypatch.setattr(gptq_rounding, "gptq", lambda weight, _, bits: round_to_nearest(weight, bits))
    reader = Checkpoint(checkpoint)
    rounding = GptqRounding(reader, calibration)
    expected = hidden_states(fp32_bundle, [f"{DECODER}.layers.{layer}/Residual" for layer in range(2)], calibration)
    for layer in range(2):
        name = f"{DECODER}.layers.{layer}"
        parts = [(f"{name}.self_attn.{part}_proj", (32, 32)) for part in "qkv"]
        qkv = [reader.tensor(f"{part}.weight", shape) for part, shape in parts]
        biases = [reader.tensor(f"{part}.bias", (32,)) for part, _ in parts]
        rounding(f"{name}.self_attn.qkv", np.concatenate(qkv), np.concatenate(biases), 8)
        for part, shape in (("self_attn.out_proj", (32, 32)), ("fc1", (52, 32)), ("fc2", (32, 52))):
            weight, bias = (
                reader.tensor(f"{name}.{part}.weight", shape),
                reader.tensor(f"{name}.{part}.bias", shape[:1]),
            )
            rounding(f"{name}.{part}", weight, bias, 8)
        found = rounding._hidden
        assert np.abs(found - expected[layer]).max() < 0.02 * np.abs(expected[layer]).max()


def logits_error(checkpoint: Path, fp32: OnnxBlip2, bundle: Path, calibration: Calibration) -> float:
    """Mean square error of the logits on all rows, with the fp32 bundle's image positions."""
    model = OnnxBlip2(bundle, threads=1)
    errors = []
    for prefix, ids in calibration.prompts():
        logits = [m.teacher_forced(prefix[None], ids[:1], ids[1:] or [5]) for m in (fp32, model)]
        errors.append(np.square(logits[0] - logits[1]).mean())
    return float(np.mean(errors))


def test_gptq_beats_the_search_and_the_search_beats_plain_rounding(
    checkpoint: Path, fp32_model: OnnxBlip2, images: Path, calibration: Calibration, tmp_path: Path
) -> None:
    errors = {}
    for name, options in (("nearest", {"rounding": "nearest"}), ("optimized", {}), ("gptq", {"calibration": images})):
        export(ExportOptions(checkpoint, tmp_path / name, precision="int4", vision_encoder_precision="fp32", **options))
        errors[name] = logits_error(checkpoint, fp32_model, tmp_path / name, calibration)
    assert errors["optimized"] < 0.95 * errors["nearest"]
    assert errors["gptq"] < 0.8 * errors["optimized"]


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a few loud channels behind every LayerNorm, as real models have them."""
    weights = tiny_checkpoint.tensors(tiny_checkpoint.CONFIG)
    for name, values in weights.items():
        if name.endswith(("layer_norm1.weight", "layer_norm2.weight", "self_attn_layer_norm.weight")) or (
            ".layers." in name and name.endswith("final_layer_norm.weight")
        ):
            values[[3, 11]] *= 40
    for name, values in weights.items():
        if name.endswith(("qkv.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight", "fc1.weight")):
            values[:, [3, 11]] /= 40
    return tiny_checkpoint.write_checkpoint(tmp_path_factory.mktemp("outliers") / "tiny", weights=weights)


def test_smoothing_changes_ranges_and_nothing_else(outliers: Path, images: Path, tmp_path: Path) -> None:
    """In int8 the encoder and the decoder come nearer to fp32, by a multiple."""
    export(ExportOptions(outliers, tmp_path / "fp32", precision="fp32"))
    fp32 = OnnxBlip2(tmp_path / "fp32", threads=1)
    rows = Calibration(
        read_rows(images), tmp_path / "fp32", manifest(tmp_path / "fp32")["image"], Checkpoint(outliers).config
    )
    pixels = np.concatenate([values for _, values in rows.pixel_values()])
    expected = fp32.image_embeds(pixels)
    errors = {}
    for name, options in (("plain", {}), ("smoothed", {"calibration": images})):
        export(ExportOptions(outliers, tmp_path / name, **options))
        embeds = OnnxBlip2(tmp_path / name, threads=1).image_embeds(pixels)
        errors[name] = (np.square(embeds - expected).mean(), logits_error(outliers, fp32, tmp_path / name, rows))
    for plain, smoothed in zip(errors["plain"], errors["smoothed"], strict=True):
        assert smoothed < plain / 4


def test_pixels_are_near_the_reference_s_and_in_its_layout(fp32_bundle: Path, tmp_path: Path) -> None:
    (path, *_) = save_images(tmp_path, 1)
    image = manifest(fp32_bundle)["image"]
    values = pixel_values(path, image)
    assert values.shape == (1, 3, image["height"], image["width"])
    assert values.dtype == np.float32
    lowest = [-mean / std for mean, std in zip(image["mean"], image["std"], strict=True)]
    highest = [(1 - mean) / std for mean, std in zip(image["mean"], image["std"], strict=True)]
    for channel in range(3):
        assert lowest[channel] - 1e-5 <= values[0, channel].min() < values[0, channel].max() <= highest[channel] + 1e-5


def test_dequantised_groups_are_what_the_graph_holds() -> None:
    """The rows go on through the rounded weights, so these must be the ones stored."""
    weight = tiny_checkpoint.seeded("weight", (8, 96), 0.1)
    again = dequantize(round_to_nearest(weight, 8))
    assert np.abs(again - weight).max() < 0.1 * 2 * 1.8 / 255
