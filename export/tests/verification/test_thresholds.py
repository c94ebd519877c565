"""The limits of each precision."""

from __future__ import annotations

import math

import pytest
from limits import missed

from blip2_export.verification.comparison import Comparison
from blip2_export.verification.invariants import Invariant
from blip2_export.verification.thresholds import THRESHOLDS, Check, checks, worst_precision


@pytest.mark.parametrize(
    ("precision", "error", "bit_equal", "passes"),
    [
        ("fp32", 1e-6, False, True),
        ("fp32", 1e-3, False, False),
        ("int8", 0.0, True, True),
        ("int8", 1e-7, False, False),
        ("int8", 0.0, False, False),
        ("fp32", math.nan, False, False),
    ],
)
def test_int8_rows_that_share_a_batch_must_be_bit_equal(
    precision: str, error: float, bit_equal: bool, passes: bool
) -> None:
    comparison = Comparison(invariants=[Invariant("slots", error, bit_equal, is_server_path=True)])
    comparison.cases = [{"equal": True}]
    assert (missed(comparison, precision) == set()) is passes


def test_an_output_is_held_to_the_worst_precision_on_its_way() -> None:
    comparison = Comparison(cases=[{"equal": True}])
    found = checks({"vision_encoder": "int8", "qformer": "fp32", "decoder": "int4"}, comparison)
    by_subject = {check.subject: check.precision for check in found}
    assert by_subject == {
        "image_embeds": "int8",
        "query_output": "int8",
        "image_prefix": "int8",
        "logits": "int4",
        "decoder_alone": "int4",
    }
    found = checks({"vision_encoder": "int8", "qformer": "fp32", "decoder": "fp32"}, comparison)
    by_subject = {check.subject: check.precision for check in found}
    assert (by_subject["logits"], by_subject["decoder_alone"]) == ("int8", "fp32")
    assert worst_precision({"vision_encoder": "fp16", "qformer": "fp32", "decoder": "int8"}) == "int8"


@pytest.mark.parametrize("name", ["stage_cosine", "logits_cosine", "top1_agreement", "kl_mean"])
def test_no_limit_gets_stricter_with_less_precision(name: str) -> None:
    limits = [getattr(THRESHOLDS[precision], name) for precision in ("fp32", "fp16", "int8", "int4")]
    assert limits == sorted(limits, reverse=name != "kl_mean")


def test_a_miss_says_what_and_by_how_much() -> None:
    assert Check("logits", "cosine", 0.98, 0.999, "int8").sentence() == "logits: cosine 0.980000 < 0.999 (int8)"
    assert Check("logits", "mean KL", 0.2, 0.01, "int8", is_upper=True).sentence() == (
        "logits: mean KL 2.0e-01 > 0.01 (int8)"
    )
    assert not Check("logits", "cosine", math.nan, 0.9, "int8").passed
