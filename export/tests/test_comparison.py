"""Metrics, limits and golden answers, with a scripted reference in the place of transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_checkpoint

from blip2_export.cases import Case, drawn_cases, read_cases
from blip2_export.comparison import Comparer
from blip2_export.errors import ExportError
from blip2_export.golden import SMALLEST_MARGIN, Answer, choose, golden_files
from blip2_export.invariants import Invariant
from blip2_export.metrics import LogitsAgreement, TensorErrors, common_prefix, kl_divergence, margin
from blip2_export.thresholds import THRESHOLDS, misses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.comparison import Comparison
    from blip2_export.onnx_blip2 import OnnxBlip2


class ScriptedReference:
    """Answers as the bundle itself would, with an error added to one stage."""

    def __init__(self, model: OnnxBlip2, wrong: str = "", error: float = 0.0) -> None:
        self.model = model
        self.wrong = wrong
        self.error = error

    def pixel_values(self, path: Path) -> np.ndarray:
        return tiny_checkpoint.pixel_values(3)[int(path.stem[-2:]) % 3][None]

    def image_stages(self, pixel_values: np.ndarray) -> _Stages:
        embeds = self.model.image_embeds(pixel_values)
        return _Stages(self, embeds, *self.model.query(embeds))

    def greedy(self, pixel_values: np.ndarray, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        tokens = self.model.greedy(self._prefix(pixel_values), prompt, max_new_tokens)
        return [*tokens[:-1], tokens[-1] + 1] if self.wrong == "greedy" else tokens

    def teacher_forced(self, pixel_values: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        logits = self.model.teacher_forced(self._prefix(pixel_values), prompt, answer)
        return self.disturbed("logits", logits)

    def _prefix(self, pixel_values: np.ndarray) -> np.ndarray:
        return self.model.query(self.model.image_embeds(pixel_values))[1]

    def disturbed(self, name: str, values: np.ndarray) -> np.ndarray:
        values = values.copy()
        if name == self.wrong:
            values[..., 0] += self.error
        return values


class _Stages:
    def __init__(self, script: ScriptedReference, embeds: np.ndarray, output: np.ndarray, prefix: np.ndarray) -> None:
        self.image_embeds = script.disturbed("image_embeds", embeds)
        self.query_output = script.disturbed("query_output", output)
        self.image_prefix = script.disturbed("image_prefix", prefix)


def compare(model: OnnxBlip2, folder: Path, wrong: str = "", error: float = 0.0) -> Comparison:
    cases = drawn_cases(folder, max_new_tokens=6)[:6]
    return Comparer(model, ScriptedReference(model, wrong, error)).run(cases, lambda _: None)


def test_a_bundle_that_equals_its_reference_passes(fp32_model: OnnxBlip2, tmp_path: Path) -> None:
    comparison = compare(fp32_model, tmp_path)
    assert misses(THRESHOLDS["fp32"], comparison, []) == []
    assert (comparison.greedy_equal, comparison.token_agreement) == (1.0, 1.0)


@pytest.mark.parametrize("wrong", ["image_embeds", "query_output", "image_prefix", "logits", "greedy"])
def test_an_error_in_one_place_is_reported_there_and_only_there(
    fp32_model: OnnxBlip2, tmp_path: Path, wrong: str
) -> None:
    found = misses(THRESHOLDS["fp32"], compare(fp32_model, tmp_path, wrong, 0.1), [])
    assert found
    assert all(miss.startswith(wrong) for miss in found)


def test_a_case_that_does_not_fit_the_model_is_refused(fp32_model: OnnxBlip2, tmp_path: Path) -> None:
    cases = [Case("long", drawn_cases(tmp_path, 6)[0].image, "x" * 70, 6)]
    with pytest.raises(ExportError, match=r"case long: .* take 81 positions, the model has 80"):
        Comparer(fp32_model, ScriptedReference(fp32_model)).run(cases, lambda _: None)


def test_a_nan_is_an_infinite_error() -> None:
    errors = TensorErrors()
    errors.add(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]]))
    assert (errors.max_abs, errors.min_cosine, errors.mean_cosine) == (math.inf, -1, -1)


def test_errors_gather_over_all_pairs() -> None:
    errors = TensorErrors()
    errors.add(np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]]))
    errors.add(np.array([[0.0, 4.0]]), np.array([[0.0, 4.0]]))
    report = errors.report()
    assert (report["max_abs_error"], report["mean_abs_error"], report["relative_error"]) == (
        0.5,
        0.125,
        0.125,
    )
    assert report["min_cosine"] == pytest.approx(1 / math.sqrt(1.25))


def test_tensors_of_different_shape_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        TensorErrors().add(np.zeros((2, 3)), np.zeros((1, 3)))


def test_divergence_is_zero_for_shifted_logits_and_known_otherwise() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    other = np.log(np.array([[0.25, 0.5, 0.25]]))
    np.testing.assert_allclose(kl_divergence(logits, logits + 3), [0], atol=1e-12)
    np.testing.assert_allclose(kl_divergence(logits, other), [0.25 * math.log(2)])


def test_top_1_agreement_counts_positions() -> None:
    agreement = LogitsAgreement()
    agreement.add(np.array([[1.0, 2, 0], [5, 2, 1]]), np.array([[1.0, 2, 0], [2, 5, 1]]))
    assert agreement.report()["top1_agreement"] == 0.5


def test_the_margin_is_the_closest_decision() -> None:
    assert margin(np.array([[1.0, 4.0, 2.5], [7.0, 0.0, 6.75]])) == 0.25


def test_the_common_prefix_ends_at_the_first_difference() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2


@pytest.mark.parametrize(
    ("precision", "error", "bit_equal", "passes"),
    [
        ("fp32", 1e-6, False, True),
        ("fp32", 1e-3, False, False),
        ("int8", 0.0, True, True),
        ("int8", 1e-7, False, False),
        ("fp32", math.nan, False, False),
    ],
)
def test_int8_rows_that_share_a_batch_must_be_bit_equal(
    fp32_model: OnnxBlip2, tmp_path: Path, precision: str, error: float, bit_equal: bool, passes: bool
) -> None:
    found = Invariant("slots", error, bit_equal, is_server_path=True)
    assert (misses(THRESHOLDS[precision], compare(fp32_model, tmp_path), [found]) == []) is passes


def answer(number: int, *, image: str = "a.png", text: str = "", **changes: float | bool) -> Answer:
    values = {"margin": 1.0, "equals_reference": True, **changes}
    return Answer(Case(f"case-{number}", Path(image), text, 5), [2], [7], "x", **values)


def test_golden_answers_are_safe_and_spread_over_pictures_and_prompts() -> None:
    answers = [
        answer(1, margin=9.0),
        answer(2, margin=8.0),
        answer(3, image="b.png", text="q", margin=0.5),
        answer(4, image="c.png", margin=SMALLEST_MARGIN / 2),
        answer(5, image="d.png", equals_reference=False),
    ]
    assert [chosen.case.name for chosen in choose(answers, 2)] == ["case-1", "case-3"]
    assert [chosen.case.name for chosen in choose(answers, 9)] == ["case-1", "case-3", "case-2"]


def test_different_pictures_of_one_name_are_both_kept(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(folder.encode())
    chosen = [answer(1, image=str(tmp_path / "x/a.png")), answer(2, image=str(tmp_path / "y/a.png"))]
    files = golden_files(chosen, "reference")
    cases = json.loads(files["golden/cases.json"])["cases"]
    assert [files[f"golden/{case['image']}"] for case in cases] == [b"x", b"y"]
    assert set(cases[0]) == {
        "name", "image", "text", "max_new_tokens", "prompt_ids", "token_ids", "answer"
    }  # fmt: skip


def test_drawn_pictures_are_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (drawn_cases(tmp_path / folder, 5) for folder in "ab")
    images = {case.image.read_bytes() for case in first}
    assert len(images) == 6
    assert images == {case.image.read_bytes() for case in second}


def test_a_cases_file_is_read_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    path = tmp_path / "cases.json"
    entries = [{"image": "cat.png", "text": ""}, {"image": "cat.png", "text": "q", "max_new_tokens": 3}]
    path.write_text(json.dumps({"cases": entries}))
    first, second = read_cases(path, 20)
    assert first == Case("cat-0", tmp_path / "cat.png", "", 20)
    assert (second.name, second.max_new_tokens) == ("cat-1", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not of the form"),
        ("{", "not of the form"),
        ('{"cases": []}', "there must be cases"),
        ('{"cases": [{"image": "cat.png"}]}', "case 0 has no text"),
        ('{"cases": [{"image": "dog.png", "text": ""}]}', "dog.png: file not found"),
    ],
)
def test_a_bad_cases_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    (tmp_path / "cases.json").write_text(content)
    with pytest.raises(ExportError) as refused:
        read_cases(tmp_path / "cases.json", 20)
    assert message in str(refused.value)
