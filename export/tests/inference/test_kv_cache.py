"""The decoder's contract with a server: in-place buffers, rows of unequal length, continuation.

Buffers start as NaN, so a graph that reads beyond a row's length gives NaN and fails here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_checkpoint

from blip2_export.inference.step import Step, step_inputs
from blip2_export.verification.invariants import check_invariants, random_prompt

if TYPE_CHECKING:
    from blip2_export.verification.onnx_blip2 import OnnxBlip2

PROMPTS = ([2, 50, 77, 261, 9], [2], [2, 8, 99, 14, 30, 7, 21, 180, 45])
FED = (33, 150, 71)


@pytest.fixture(scope="module", params=["fp32_model", "int8_model"])
def model(request: pytest.FixtureRequest) -> OnnxBlip2:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def prefixes(model: OnnxBlip2) -> np.ndarray:
    """The image prefixes of three images."""
    return model.query(model.image_embeds(tiny_checkpoint.pixel_values(3)))[1]


def lengths(prefixes: np.ndarray) -> list[int]:
    return [prefixes.shape[1] + len(prompt) for prompt in PROMPTS]


def alone(model: OnnxBlip2, prefixes: np.ndarray, row: int) -> np.ndarray:
    """Prefill and one decode step of a single row: logits [2, vocab]."""
    cache = model.cache(1)
    first = model.prefill(cache, prefixes[row : row + 1], [PROMPTS[row]])
    second = model.decode(cache, [FED[row]], [lengths(prefixes)[row]])
    return np.concatenate([first, second])


def test_unequal_rows_prefilled_and_decoded_together_equal_single_rows(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    cache = model.cache(3)
    first = model.prefill(cache, prefixes, PROMPTS)
    second = model.decode(cache, FED, lengths(prefixes))
    for row in range(3):
        expected = alone(model, prefixes, row)
        np.testing.assert_allclose(np.stack([first[row], second[row]]), expected, atol=2e-5)


def test_a_continued_prompt_equals_one_pass(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    prompt, prefix = PROMPTS[2], prefixes[:1]
    whole = model.prefill(model.cache(1), prefix, [prompt])
    cache = model.cache(1)
    model.prefill(cache, prefix, [prompt[:1]])
    last = np.array([[len(prompt) - 2]])
    rest = Step(model.no_prefix(1), [prompt[1:]], [prefix.shape[1] + 1], last)
    np.testing.assert_allclose(model.step(cache, rest)[:, 0], whole, atol=2e-5)


def test_decoding_writes_only_the_new_position_of_each_row(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    cache = model.cache(3)
    model.prefill(cache, prefixes, PROMPTS)
    before = {names: buffer.copy() for names, buffer in cache.buffers.items()}
    model.decode(cache, FED, lengths(prefixes))
    for names, buffer in cache.buffers.items():
        for row, length in enumerate(lengths(prefixes)):
            np.testing.assert_array_equal(buffer[row, :, :length], before[names][row, :, :length])
            assert np.isfinite(buffer[row, :, length]).all()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_garbage_beyond_a_row_s_length_changes_nothing(model: OnnxBlip2, prefixes: np.ndarray, garbage: float) -> None:
    logits = []
    for fill in (0.0, garbage):
        cache = model.cache(1, fill=fill)
        first = model.prefill(cache, prefixes[:1], [PROMPTS[0]])
        logits.append([first, model.decode(cache, [9], [lengths(prefixes)[0]])])
    np.testing.assert_array_equal(logits[0], logits[1])


def test_the_buffer_s_size_changes_nothing(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    length = lengths(prefixes)[0]
    exact, roomy = (model.prefill(model.cache(1, size), prefixes[:1], [PROMPTS[0]]) for size in (length, length + 20))
    np.testing.assert_array_equal(exact, roomy)


def test_decoding_the_first_slots_leaves_the_others_alone(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    cache = model.cache(3)
    model.prefill(cache, prefixes, PROMPTS)
    third = [buffer[2].copy() for buffer in cache.buffers.values()]
    model.decode(cache, FED[:2], lengths(prefixes)[:2])
    for buffer, kept in zip(cache.buffers.values(), third, strict=True):
        np.testing.assert_array_equal(buffer[2], kept)


def test_a_prompt_can_be_continued_after_going_back(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    cache = model.cache(1)
    model.prefill(cache, prefixes[:1], [PROMPTS[0]])
    length = lengths(prefixes)[0]
    expected = model.decode(cache, [9], [length])
    model.decode(cache, [55], [length + 1])
    np.testing.assert_array_equal(model.decode(cache, [9], [length]), expected)


def test_another_image_gives_other_logits(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    first, second = (model.prefill(model.cache(1), prefixes[row : row + 1], [PROMPTS[0]]) for row in (0, 1))
    assert np.abs(first - second).max() > 0.01


def test_the_last_position_of_the_table_can_be_used(model: OnnxBlip2, prefixes: np.ndarray) -> None:
    room = model.decoder_info["max_positions"] - prefixes.shape[1]
    prompt = random_prompt(model, room - 1, 3)
    cache = model.cache(1)
    model.prefill(cache, prefixes[:1], [prompt])
    assert np.isfinite(model.decode(cache, [9], [prefixes.shape[1] + room - 1])).all()


def test_int8_slots_that_share_a_batch_are_equal_to_the_last_bit(int8_model: OnnxBlip2) -> None:
    server_paths = [found for found in check_invariants(int8_model) if found.is_server_path]
    assert len(server_paths) == 3
    assert [found.name for found in server_paths if not found.bit_equal] == []


def test_padding_stays_inside_the_table_of_positions() -> None:
    prefix = np.zeros((2, 4, 8), np.float32)
    inputs = step_inputs(Step(prefix, [[2, 5, 6], [2]], [0, 0], np.zeros((2, 1))))
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 4, 4]]
    assert inputs["seqlens_k"].tolist() == [6, 4]
    assert int(inputs["total_sequence_length"]) == 7
