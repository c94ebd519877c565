"""The exported graphs against numbers recorded from transformers (`record_expected.py`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import record_expected
import tiny_checkpoint

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.verification.metrics import TensorErrors
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED: dict[str, Any] = json.loads(record_expected.EXPECTED.read_text(encoding="utf-8"))
# The recorded numbers have five decimals; the largest are near 10.
TOLERANCE = 1e-4


def stages(model: OnnxBlip2) -> dict[str, np.ndarray]:
    embeds = model.image_embeds(tiny_checkpoint.pixel_values())
    output, prefix = model.query(embeds)
    return {"image_embeds": embeds, "query_output": output, "image_prefix": prefix}


@pytest.mark.parametrize("stage", ["image_embeds", "query_output", "image_prefix"])
def test_every_stage_in_fp32_equals_transformers(fp32_model: OnnxBlip2, stage: str) -> None:
    np.testing.assert_allclose(stages(fp32_model)[stage], EXPECTED[stage], atol=TOLERANCE)


@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
def test_logits_in_fp32_equal_transformers(fp32_model: OnnxBlip2, prompt: str) -> None:
    prefix = stages(fp32_model)["image_prefix"]
    ids = record_expected.PROMPTS[prompt]
    logits = fp32_model.teacher_forced(prefix, ids, record_expected.ANSWER)
    np.testing.assert_allclose(logits, EXPECTED["answers"][prompt]["logits"], atol=TOLERANCE)


@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
def test_greedy_answers_in_fp32_equal_transformers(fp32_model: OnnxBlip2, prompt: str) -> None:
    prefix = stages(fp32_model)["image_prefix"]
    tokens = fp32_model.greedy(prefix, record_expected.PROMPTS[prompt], record_expected.MAX_NEW_TOKENS)
    assert tokens == EXPECTED["answers"][prompt]["token_ids"]


@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
def test_logits_in_int8_stay_near_transformers(int8_model: OnnxBlip2, prompt: str) -> None:
    errors = TensorErrors()
    prefix = stages(int8_model)["image_prefix"]
    logits = int8_model.teacher_forced(prefix, record_expected.PROMPTS[prompt], record_expected.ANSWER)
    errors.add(logits, np.array(EXPECTED["answers"][prompt]["logits"]))
    assert errors.mean_cosine > 0.99
    assert errors.max_abs > TOLERANCE, "int8 this close to fp32 is not int8"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.15)])
def test_half_precision_checkpoints_give_nearly_the_same_stages(tmp_path: Path, dtype: str, tolerance: float) -> None:
    folder = tiny_checkpoint.write_checkpoint(tmp_path / "half", dtype=dtype)
    export(ExportOptions(folder, tmp_path / "bundle", precision="fp32"))
    found = stages(OnnxBlip2(tmp_path / "bundle", threads=1))
    for stage, values in found.items():
        np.testing.assert_allclose(values, EXPECTED[stage], atol=tolerance)
    # Rounded weights must show, or the stored type was not what was read.
    assert np.abs(found["image_embeds"] - EXPECTED["image_embeds"]).max() > TOLERANCE


@pytest.mark.reference
def test_the_recorded_numbers_are_those_of_the_installed_transformers(checkpoint: Path) -> None:
    found = record_expected.compute(checkpoint)
    assert found["reference"] == EXPECTED["reference"]
    for stage in ("image_embeds", "query_output", "image_prefix"):
        np.testing.assert_allclose(found[stage], EXPECTED[stage], atol=TOLERANCE)
    for prompt, answer in EXPECTED["answers"].items():
        assert found["answers"][prompt]["token_ids"] == answer["token_ids"]
        np.testing.assert_allclose(found["answers"][prompt]["logits"], answer["logits"], atol=TOLERANCE)
