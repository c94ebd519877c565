"""A bundle against its reference, or against made-up errors: what is found, and where."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import tiny_checkpoint
from limits import missed

from blip2_export.errors import ExportError
from blip2_export.verification.cases import Case, drawn_cases
from blip2_export.verification.comparison import Comparer, Comparison
from blip2_export.verification.expected import ask_reference
from blip2_export.verification.layer_errors import decoder_layers, vision_layers
from blip2_export.verification.onnx_blip2 import OnnxBlip2
from blip2_export.verification.phases import Phases
from blip2_export.verification.workload import BeamPlan, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

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
