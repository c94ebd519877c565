"""Metrics, limits and golden answers, with a scripted reference in the place of transformers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_checkpoint

from blip2_export.errors import ExportError
from blip2_export.graph.contract import STAGES
from blip2_export.verification.cases import Case, drawn_cases, read_cases
from blip2_export.verification.comparison import Comparer, Comparison
from blip2_export.verification.expected import ask_reference
from blip2_export.verification.golden import SMALLEST_MARGIN, Answer, choose, golden_files
from blip2_export.verification.invariants import Invariant
from blip2_export.verification.layer_errors import decoder_layers, vision_layers
from blip2_export.verification.metrics import LogitsAgreement, TensorErrors, common_prefix, kl_divergence, margin
from blip2_export.verification.onnx_blip2 import OnnxBlip2
from blip2_export.verification.phases import Phases
from blip2_export.verification.thresholds import THRESHOLDS, Check, checks, worst_precision
from blip2_export.verification.workload import BeamPlan, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.verification.beam_search import BeamAnswer, BeamOptions


class ScriptedReference:
    """Answers as a bundle would, with an error added in one place. The error does not go on to later stages."""

    def __init__(self, model: OnnxBlip2, wrong: str = "", error: float = 0.0) -> None:
        self.model = model
        self.wrong = wrong
        self.error = error

    def pixel_values(self, path: Path) -> np.ndarray:
        return tiny_checkpoint.pixel_values(3)[int(path.stem[-2:]) % 3][None]

    def close(self) -> None:
        pass

    def image_embeds(self, pixel_values: np.ndarray) -> np.ndarray:
        return self._shifted("image_embeds", self.model.image_embeds(pixel_values), self.error)

    def query(self, image_embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        output, prefix = self.model.query(self._shifted("image_embeds", image_embeds, -self.error))
        return (
            self._shifted("query_output", output, self.error),
            self._shifted("image_prefix", prefix, self.error),
        )

    def greedy(self, image_prefix: np.ndarray, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        tokens = self.model.greedy(self._clean(image_prefix), prompt, max_new_tokens)
        return [*tokens[:-1], tokens[-1] + 1] if self.wrong == "greedy answers" else tokens

    def beams(
        self, image_prefix: np.ndarray, prompt: Sequence[int], options: BeamOptions, max_new_tokens: int
    ) -> list[BeamAnswer]:
        answers = self.model.beams(self._clean(image_prefix), prompt, options, max_new_tokens)
        return answers[1:] if self.wrong == "beam search" else answers

    def teacher_forced(self, image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        logits = self.model.teacher_forced(self._clean(image_prefix), prompt, answer)
        return self._shifted("logits", logits, self.error)

    def vision_layers(self, pixel_values: np.ndarray) -> np.ndarray:
        return vision_layers(self.model, [pixel_values])[0]

    def decoder_layers(self, image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        return decoder_layers(self.model, [(self._clean(image_prefix), prompt, answer)])[0]

    def _clean(self, image_prefix: np.ndarray) -> np.ndarray:
        return self._shifted("image_prefix", image_prefix, -self.error)

    def _shifted(self, name: str, values: np.ndarray, error: float) -> np.ndarray:
        values = values.copy()
        if name == self.wrong:
            values[..., 0] += error
        return values


def compare(model: OnnxBlip2, folder: Path, reference: ScriptedReference | None = None) -> Comparison:
    workload = Workload.of(model, drawn_cases(folder, max_new_tokens=6)[:6], BeamPlan(3, 2))
    phases = Phases(say=lambda _: None)
    expected = ask_reference(reference or ScriptedReference(model), workload, phases)
    return Comparer(model, workload, expected, phases).run()


def missed(comparison: Comparison, precision: str = "fp32") -> set[str]:
    """What misses a limit, with every stage at one precision."""
    found = checks(dict.fromkeys(STAGES, precision), comparison)
    return {check.subject for check in found if not check.passed}


@pytest.fixture
def fresh_fp32(fp32_bundle: Path) -> OnnxBlip2:
    """The fp32 bundle with sessions of its own: a comparison closes them."""
    return OnnxBlip2(fp32_bundle, threads=1)


def test_a_bundle_that_equals_its_reference_passes(fresh_fp32: OnnxBlip2, tmp_path: Path) -> None:
    comparison = compare(fresh_fp32, tmp_path)
    assert missed(comparison) == set()
    assert (comparison.greedy_equal, comparison.token_agreement) == (1.0, 1.0)
    assert (comparison.beam_equal, comparison.beam_token_agreement, comparison.beam_score_error) == (1.0, 1.0, 0.0)
    assert [(pair.case, pair.options.length_penalty) for pair in comparison.beams] == [
        (case, penalty) for case in ("picture-00-0", "picture-00-1") for penalty in (1.0, -1.0, 0.0)
    ]
    assert {name: len(layers) for name, layers in comparison.layers.items()} == {
        "vision_encoder": 2, "decoder": 2, "decoder_alone": 2
    }  # fmt: skip
    assert len(comparison.invariants) == 9


@pytest.mark.parametrize(
    ("wrong", "also"),
    [
        ("image_embeds", set()),
        ("query_output", set()),
        # The bundle's decoder alone gets the reference's prefix.
        ("image_prefix", {"decoder_alone"}),
        ("logits", {"decoder_alone"}),
        ("greedy answers", set()),
        ("beam search", set()),
    ],
)
def test_an_error_in_one_place_is_reported_there_and_only_there(
    fresh_fp32: OnnxBlip2, tmp_path: Path, wrong: str, also: set[str]
) -> None:
    comparison = compare(fresh_fp32, tmp_path, ScriptedReference(fresh_fp32, wrong, 0.1))
    assert missed(comparison) == {wrong} | also


def test_the_decoder_alone_does_not_pay_for_the_encoder(fp32_bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(fp32_bundle, tmp_path / "mixed")
    shutil.copy(int8_bundle / "vision_encoder.onnx", mixed)
    comparison = compare(OnnxBlip2(mixed, threads=1), tmp_path, ScriptedReference(OnnxBlip2(fp32_bundle, threads=1)))
    assert comparison.decoder_alone.errors.max_abs < 1e-5
    assert comparison.logits.errors.max_abs > 1e-3
    whole, alone = (comparison.layers[name] for name in ("decoder", "decoder_alone"))
    assert all(layer.relative_rms < 1e-6 for layer in alone)
    assert all(layer.relative_rms > 1e-3 for layer in whole)


def test_no_session_stays_open_after_a_comparison(fresh_fp32: OnnxBlip2, tmp_path: Path) -> None:
    compare(fresh_fp32, tmp_path)
    assert fresh_fp32._sessions == {}


def test_a_case_that_does_not_fit_the_model_is_refused(fp32_model: OnnxBlip2, tmp_path: Path) -> None:
    cases = [Case("long", drawn_cases(tmp_path, 6)[0].image, "x" * 70, 6)]
    with pytest.raises(ExportError, match=r"case long: .* take 81 positions, the model has 80"):
        Workload.of(fp32_model, cases, BeamPlan())


def test_beam_search_can_be_left_out(fp32_model: OnnxBlip2, tmp_path: Path) -> None:
    cases = drawn_cases(tmp_path, 6)
    assert Workload.of(fp32_model, cases, BeamPlan(num_beams=0)).searched == []
    assert Workload.of(fp32_model, cases, BeamPlan(cases=0)).searched == []
    assert len(Workload.of(fp32_model, cases[:2], BeamPlan(cases=4)).searched) == 6


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


def answer(number: int, *, image: str = "a.png", text: str = "", **changes: float | bool) -> Answer:
    values = {"margin": 1.0, "equals_reference": True, **changes}
    return Answer(Case(f"case-{number}", Path(image), text, 5), [2], [7], "x", **values)


def test_golden_answers_are_safe_and_spread_over_images_and_prompts() -> None:
    answers = [
        answer(1, margin=9.0),
        answer(2, margin=8.0),
        answer(3, image="b.png", text="q", margin=0.5),
        answer(4, image="c.png", margin=SMALLEST_MARGIN / 2),
        answer(5, image="d.png", equals_reference=False),
    ]
    assert [chosen.case.name for chosen in choose(answers, 2)] == ["case-1", "case-3"]
    assert [chosen.case.name for chosen in choose(answers, 9)] == ["case-1", "case-3", "case-2"]


def test_different_images_of_one_name_are_both_kept(tmp_path: Path) -> None:
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


def test_drawn_images_are_the_same_every_time(tmp_path: Path) -> None:
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
        ('{"cases": []}', "has no cases, or two of one name"),
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
