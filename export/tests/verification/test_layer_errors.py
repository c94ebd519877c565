"""Hidden states after every layer: what the graphs give, with weights inside the file and beside it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import record_expected
import tiny_checkpoint

from blip2_export.errors import ExportError
from blip2_export.inference.session import with_outputs
from blip2_export.verification.layer_errors import RESIDUALS, decoder_layers, layer_errors, vision_layers
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from pathlib import Path

IDS = record_expected.PROMPTS["question"]


def prefix(model: OnnxBlip2) -> np.ndarray:
    return model.query(model.image_embeds(tiny_checkpoint.pixel_values()))[1]


@pytest.mark.reference
def test_the_states_of_an_fp32_bundle_equal_those_of_transformers(checkpoint: Path, fp32_model: OnnxBlip2) -> None:
    from blip2_export.verification.reference import Reference

    reference = Reference(checkpoint)
    pixel_values = tiny_checkpoint.pixel_values()
    states = vision_layers(fp32_model, [pixel_values])[0]
    np.testing.assert_allclose(states, reference.vision_layers(pixel_values), atol=1e-4)
    image_prefix = prefix(fp32_model)
    states = decoder_layers(fp32_model, [(image_prefix, IDS, record_expected.ANSWER)])[0]
    expected = reference.decoder_layers(image_prefix, IDS, record_expected.ANSWER)
    np.testing.assert_allclose(states, expected, atol=1e-4)


def test_every_pass_has_its_own_states(fp32_model: OnnxBlip2) -> None:
    first, second = vision_layers(fp32_model, [row[None] for row in tiny_checkpoint.pixel_values(2)])
    assert first.shape == second.shape == (2, 17, 24)
    assert np.abs(first - second).max() > 0.1
    passes = [(prefix(fp32_model), IDS, answer) for answer in ([5, 6], [5, 7, 8])]
    short, long = decoder_layers(fp32_model, passes)
    assert (short.shape, long.shape) == ((2, 4 + len(IDS) + 1, 32), (2, 4 + len(IDS) + 2, 32))
    np.testing.assert_allclose(short, long[:, :-1], atol=1e-5)


def test_weights_beside_the_graph_are_found(fp32_bundle: Path, fp32_model: OnnxBlip2, tmp_path: Path) -> None:
    folder = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    for stage in ("vision_encoder", "decoder"):
        path = folder / f"{stage}.onnx"
        model = onnx.load(path)
        path.unlink()
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
        assert (folder / f"{path.name}.data").stat().st_size > 5000
    external = OnnxBlip2(folder, threads=1)
    pixel_values, image_prefix = tiny_checkpoint.pixel_values(), prefix(fp32_model)
    np.testing.assert_array_equal(vision_layers(external, [pixel_values]), vision_layers(fp32_model, [pixel_values]))
    traced = [(image_prefix, IDS, [5, 6])]
    np.testing.assert_array_equal(decoder_layers(external, traced), decoder_layers(fp32_model, traced))


def test_a_graph_without_the_tensors_is_refused(fp32_bundle: Path) -> None:
    name = RESIDUALS["decoder"].format(layer=7)
    with pytest.raises(
        ExportError, match=f"decoder.onnx: has no tensor {name}; export the bundle again with this version"
    ):
        with_outputs(fp32_bundle / "decoder.onnx", [name])


def test_errors_are_relative_to_the_reference_and_gather_over_passes() -> None:
    reference = np.array([[[3.0, 4.0], [4.0, 3.0]]])
    half_as_large = layer_errors([reference / 2], [reference])
    assert half_as_large[0].relative_rms == pytest.approx(0.5)
    assert half_as_large[0].cosine_distance == pytest.approx(0, abs=1e-12)
    turned = np.array([[[-4.0, 3.0]]])
    found = layer_errors([reference, turned], [reference, np.array([[[3.0, 4.0]]])])
    assert len(found) == 1
    assert found[0].relative_rms == pytest.approx(np.sqrt(50 / 75))
    assert found[0].cosine_distance == pytest.approx(1 / 3)


def test_a_nan_is_an_infinite_error_of_its_layer_alone() -> None:
    reference = np.ones((2, 3, 4))
    broken = reference.copy()
    broken[1, 0, 0] = np.nan
    good, bad = layer_errors([broken], [reference])
    assert (good.relative_rms, bad.relative_rms, bad.cosine_distance) == (0.0, np.inf, np.inf)


def test_states_of_different_shape_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        layer_errors([np.zeros((1, 2, 3))], [np.zeros((1, 1, 3))])
