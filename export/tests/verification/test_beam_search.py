"""Beam search: its rules one by one on scripted logits, then whole searches against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import record_expected
import tiny_checkpoint

from blip2_export.verification.beam_search import BeamOptions, beam_search

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blip2_export.verification.beam_search import Advance, BeamAnswer
    from blip2_export.verification.onnx_blip2 import OnnxBlip2
    from blip2_export.verification.reference import Reference

END, A, B, C = range(4)
VOCAB = 8
COMBINATIONS = [
    (penalty, early_stopping) for penalty in (-1.0, 0.0, 1.0, 2.0) for early_stopping in (False, True, "never")
]


def scripted(script: dict[tuple[int, ...], dict[int, float]]) -> tuple[np.ndarray, Advance]:
    """Logits of the prompt and the model: probabilities by the tokens so far; others share what is left."""
    rows: list[tuple[int, ...]] = [()]

    def logits() -> np.ndarray:
        return np.stack([_row(script.get(row, {})) for row in rows])

    def advance(parents: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        rows[:] = [(*rows[parent], token) for parent, token in zip(parents, tokens, strict=True)]
        return logits()

    return logits(), advance


def _row(given: dict[int, float]) -> np.ndarray:
    probabilities = np.full(VOCAB, (1 - sum(given.values())) / (VOCAB - len(given)))
    probabilities[list(given)] = list(given.values())
    return np.log(probabilities).astype(np.float32)


def search(
    script: dict[tuple[int, ...], dict[int, float]], options: BeamOptions, max_new_tokens: int = 3
) -> list[BeamAnswer]:
    return beam_search(*scripted(script), options, max_new_tokens, END)


def test_the_best_answer_need_not_begin_with_the_best_token() -> None:
    script = {(): {A: 0.5, B: 0.4}, (A,): {A: 0.15}, (B,): {C: 0.9}}
    found = search(script, BeamOptions(2, 0.0), 2)
    assert found[0].token_ids == [B, C]
    assert found[0].score == pytest.approx(np.log(0.4 * 0.9))


def test_the_length_penalty_decides_between_short_and_long() -> None:
    script = {(): {END: 0.4, A: 0.5}, (A,): {B: 0.7}, (A, B): {END: 0.9}}
    assert search(script, BeamOptions(2, -1.0))[0].token_ids == [END]
    long = search(script, BeamOptions(2, 1.0))[0]
    assert long.token_ids == [A, B, END]
    assert long.score == pytest.approx(np.log(0.5 * 0.7 * 0.9) / 3)


def test_an_ended_candidate_beyond_the_first_beams_is_lost() -> None:
    script = {(): {A: 0.4, B: 0.3, END: 0.2}, (A,): {END: 0.5}, (B,): {END: 0.5}}
    answers = [answer.token_ids for answer in search(script, BeamOptions(2, 0.0))]
    assert [END] not in answers
    assert [A, END] in answers


def test_early_stopping_takes_the_first_full_set() -> None:
    script = {(): {END: 0.3, A: 0.6}, (A,): {END: 0.2, B: 0.75}, (A, B): {END: 0.99}}
    assert search(script, BeamOptions(2, 1.0, early_stopping=True))[0].token_ids != [A, B, END]
    assert search(script, BeamOptions(2, 1.0, early_stopping=False))[0].token_ids == [A, B, END]


def test_never_bounds_by_the_longest_answer_and_so_goes_on() -> None:
    script = {(): {END: 0.7, A: 0.25}, (A,): {END: 0.6, B: 0.35}, (A, B): {C: 0.999}, (A, B, C): {END: 0.99}}
    stops, goes_on = (search(script, BeamOptions(2, 2.0, early), 5)[0] for early in (False, "never"))
    assert stops.token_ids == [END]
    assert goes_on.token_ids == [A, B, C, END]


def test_what_never_ends_is_cut_at_the_last_token() -> None:
    found = search({(): {A: 0.9}, (A,): {B: 0.9}}, BeamOptions(3, 1.0), 2)
    assert found[0].token_ids == [A, B]
    assert len(found) == 3
    assert [answer.score for answer in found] == sorted((answer.score for answer in found), reverse=True)


@pytest.mark.reference
@pytest.mark.parametrize(("penalty", "early_stopping"), COMBINATIONS)
@pytest.mark.parametrize("num_beams", [2, 3, 4, 5])
def test_all_answers_equal_those_of_transformers(num_beams: int, penalty: float, early_stopping: bool | str) -> None:
    import torch

    options, ended = BeamOptions(num_beams, penalty, early_stopping), 0
    for seed in range(3):
        model, prompt = _random_opt(seed), torch.tensor([[2, 5, 7]])
        with torch.no_grad():
            expected = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=8,
                num_return_sequences=num_beams,
                return_dict_in_generate=True,
                output_scores=True,
                **options.report(),
            )
            rows = [prompt[0].tolist()]
            found = beam_search(*_opt_steps(model, rows), options, 8, 3)
        for row, answer in enumerate(found):
            new = expected.sequences[row, 3:].tolist()
            assert answer.token_ids == new[: len(answer.token_ids)]
            assert set(new[len(answer.token_ids) :]) <= {1}, "only padding may follow"
            assert answer.score == pytest.approx(expected.sequences_scores[row].item(), rel=1e-5)
        ended += sum(answer.token_ids[-1] == 3 for answer in found)
    assert ended, "searches that never end would leave half of the rules untried"


def _random_opt(seed: int) -> object:
    """A decoder of a few tokens that often ends its answers."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=12,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        init_std=0.5,
        eos_token_id=3,
    )
    return OPTForCausalLM(config).eval()


def _opt_steps(model: object, rows: list[list[int]]) -> tuple[np.ndarray, Advance]:
    import torch

    def logits() -> np.ndarray:
        return model(torch.tensor(rows)).logits[:, -1].numpy()

    def advance(parents: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        rows[:] = [[*rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return logits()

    return logits(), advance


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    from blip2_export.verification.reference import Reference

    return Reference(checkpoint)


@pytest.mark.reference
@pytest.mark.parametrize(("penalty", "early_stopping"), COMBINATIONS)
@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
def test_the_beams_of_a_bundle_equal_those_of_transformers(
    reference: Reference, fp32_model: OnnxBlip2, prompt: str, penalty: float, early_stopping: bool | str
) -> None:
    prefix = fp32_model.query(fp32_model.image_embeds(tiny_checkpoint.pixel_values()))[1]
    ids, options = record_expected.PROMPTS[prompt], BeamOptions(3, penalty, early_stopping)
    found = fp32_model.beams(prefix, ids, options, 10)
    expected = reference.beams(prefix, ids, options, 10)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    np.testing.assert_allclose([answer.score for answer in found], [answer.score for answer in expected], atol=1e-4)
