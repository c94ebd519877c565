"""The page and the table of a certificate, and the charts on the page."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from blip2_export.verification.comparison import Comparison
from blip2_export.verification.line_chart import HEIGHT, TOP, WIDTH, Series, legend, line_chart
from blip2_export.verification.metrics import LogitsAgreement
from blip2_export.verification.report import page, table

ERRORS = {
    "max_abs_error": 0.5,
    "mean_abs_error": 0.01,
    "relative_error": 0.02,
    "mean_cosine": 0.9999,
    "min_cosine": 0.99,
}
LOGITS = {**ERRORS, "kl_mean": 1e-4, "kl_max": 1e-2, "top1_agreement": 0.75, "positions": 4}


def certificate(**changes: object) -> dict[str, object]:
    case = {"name": "one", "text": "<b>?", "reference_answer": "a & b", "answer": "c", "equal": False}
    search = {"case": "one", "num_beams": 5, "length_penalty": -1.0, "early_stopping": False, "equal": True}
    return {
        "bundle": "tiny",
        "passed": False,
        "misses": ["logits: cosine 0.9 < 0.999 (int8)"],
        "reference": "transformers 5",
        "provider": "CPUExecutionProvider",
        "versions": {"numpy": "2"},
        "precision": {"vision_encoder": "int8", "qformer": "fp32", "decoder": "int8"},
        "stages": {"image_embeds": ERRORS},
        "logits": LOGITS,
        "decoder_alone": LOGITS,
        "greedy": {"cases": 1, "equal_share": 0.0, "token_agreement": 0.5},
        "beam": {
            "cases": 1,
            "equal_share": 1.0,
            "token_agreement": 1.0,
            "score_error": 0.25,
            "answers": [{**search, "reference_score": -1.0, "score": -1.25}],
        },
        "layers": {
            stage: [{"relative_rms": 0.001 * (layer + 1), "cosine_distance": 1e-6} for layer in range(3)]
            for stage in ("vision_encoder", "decoder", "decoder_alone")
        },
        "invariants": [{"name": "slots", "relative_error": 0.0, "bit_equal": True}],
        "checks": [{"subject": "logits", "measure": "cosine", "limit": 0.999}],
        "cost": {"seconds": 61.0, "peak_anonymous_bytes": 2_000_000_000},
        "cases": [{**case, "smallest_margin": 0.125}],
        **changes,
    }


def comparison() -> Comparison:
    return Comparison(
        logits=LogitsAgreement(divergences=[1e-5, 1e-2, 0.0]), decoder_alone=LogitsAgreement(divergences=[1e-6] * 3)
    )


def test_equal_results_give_equal_pages_whatever_they_cost() -> None:
    dear = certificate(cost={"seconds": 9000.0, "peak_anonymous_bytes": None})
    assert page(certificate(), comparison()) == page(dear, comparison())


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(certificate(), comparison()).decode()
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text


def test_texts_are_escaped() -> None:
    text = page(certificate(), comparison()).decode()
    assert "<td>&lt;b&gt;?</td><td>a &amp; b</td><td>c</td>" in text
    assert "<b>?" not in text


def test_the_page_shows_misses_limits_layers_and_answers() -> None:
    text = page(certificate(), comparison()).decode()
    for shown in (
        "<b>FAILED</b>",
        "<li>logits: cosine 0.9 &lt; 0.999 (int8)</li>",
        "<td>cosine 0.999</td>",
        "Vision encoder: relative RMS error after each layer",
        "Decoder: 1 - cosine after each layer",
        "5 beams, length penalty -1",
        "scores differ by 2.5e-01 of themselves at most",
    ):
        assert shown in text
    assert text.count("<svg") == 5


def test_a_page_without_beam_search_does_not_speak_of_it() -> None:
    empty = {"cases": 0, "equal_share": 1.0, "token_agreement": 1.0, "score_error": 0.0, "answers": []}
    assert b"beam" not in page(certificate(beam=empty), comparison())
    assert "beam" not in table(certificate(beam=empty))


def test_the_table_ends_with_the_verdict() -> None:
    lines = table(certificate()).splitlines()
    assert lines[-2:] == ["MISSED  logits: cosine 0.9 < 0.999 (int8)", "FAILED"]
    assert "took 61 s, 2.0 GB of memory at most" in lines
    assert "beam search: 1.0000 of 1 answers equal, token agreement 1.0000" in lines
    assert table(certificate(passed=True, misses=[])).endswith("\npassed")


def places(chart: str) -> list[tuple[float, float]]:
    points = re.search(r'points="([^"]*)"', chart)[1]
    return [tuple(float(number) for number in point.split(",")) for point in points.split()]


def test_equal_factors_are_equal_heights() -> None:
    (_, first), (_, second), (_, third) = places(line_chart("c", "layer", [Series("a", [1e-4, 1e-3, 1e-2])]))
    assert first - second == pytest.approx(second - third, abs=0.2)
    assert first > second


def test_zero_lies_on_the_lower_edge_and_infinity_on_the_upper() -> None:
    zero, infinite, largest, least = places(line_chart("c", "x", [Series("a", [0.0, math.inf, 0.5, 1e-3])]))
    assert infinite[1] == TOP
    assert infinite[1] < largest[1] < least[1] <= zero[1] < HEIGHT


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1.0], [1e-300, 1.0], [math.inf, math.inf], [1e-3] * 500, [0.00999, 0.01]]
)
def test_every_chart_is_well_formed_and_inside_its_frame(values: list[float]) -> None:
    chart = line_chart("label & more", "x", [Series("a<b", values), Series("b", values[:1])])
    ElementTree.fromstring(chart)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(chart))
    labels = re.findall(r'text-anchor="end">([^<]*)<', chart)
    assert 2 <= len(labels) <= 12
    assert len(labels) == len(set(labels))


def test_one_line_needs_no_legend() -> None:
    assert legend([Series("a", [1])]) == ""
    assert legend([Series("a", [1]), Series("b", [1])]).count("<span") == 2
