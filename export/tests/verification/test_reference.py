"""The reference, stage by stage, against transformers' own `Blip2ForConditionalGeneration` in one piece."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import record_expected
import tiny_checkpoint

from blip2_export.errors import ExportError
from blip2_export.verification.beam_search import BeamOptions

if TYPE_CHECKING:
    from pathlib import Path

    from blip2_export.verification.reference import Reference

pytestmark = pytest.mark.reference
MAX_NEW_TOKENS = 10


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    from blip2_export.verification.reference import Reference

    return Reference(checkpoint)


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> Any:  # noqa: ANN401  a model of transformers
    import torch
    from transformers import Blip2ForConditionalGeneration

    return Blip2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prefix(reference: Reference) -> np.ndarray:
    return reference.query(reference.image_embeds(tiny_checkpoint.pixel_values()))[1]


def inputs(ids: list[int]) -> dict[str, Any]:
    import torch

    row = torch.tensor([[tiny_checkpoint.IMAGE_TOKEN] * tiny_checkpoint.CONFIG["num_query_tokens"] + ids])
    pixel_values = torch.from_numpy(tiny_checkpoint.pixel_values())
    return {"pixel_values": pixel_values, "input_ids": row, "attention_mask": torch.ones_like(row)}


def test_the_image_stages_equal_the_whole_model_to_the_last_bit(reference: Reference, whole: Any) -> None:  # noqa: ANN401
    import torch

    with torch.no_grad():
        expected = whole.get_image_features(torch.from_numpy(tiny_checkpoint.pixel_values()))
    embeds = reference.image_embeds(tiny_checkpoint.pixel_values())
    output, image_prefix = reference.query(embeds)
    np.testing.assert_array_equal(embeds, expected.last_hidden_state)
    np.testing.assert_array_equal(output, expected.qformer_outputs.last_hidden_state)
    np.testing.assert_array_equal(image_prefix, expected.pooler_output)


@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
def test_logits_equal_the_whole_model_to_the_last_bit(
    reference: Reference,
    whole: Any,  # noqa: ANN401
    prefix: np.ndarray,
    prompt: str,
) -> None:
    import torch

    ids, answer = record_expected.PROMPTS[prompt], record_expected.ANSWER
    with torch.no_grad():
        expected = whole(**inputs([*ids, *answer[:-1]])).logits[0, -len(answer) :]
    np.testing.assert_array_equal(reference.teacher_forced(prefix, ids, answer), expected)


@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
def test_greedy_answers_equal_the_whole_model(
    reference: Reference,
    whole: Any,  # noqa: ANN401
    prefix: np.ndarray,
    prompt: str,
) -> None:
    ids = record_expected.PROMPTS[prompt]
    row = inputs(ids)
    expected = whole.generate(**row, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    assert reference.greedy(prefix, ids, MAX_NEW_TOKENS) == expected[0, row["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("prompt", record_expected.PROMPTS)
@pytest.mark.parametrize("options", [BeamOptions(5), BeamOptions(3, -1.0, early_stopping=True)])
def test_beams_equal_the_whole_model(
    reference: Reference,
    whole: Any,  # noqa: ANN401
    prefix: np.ndarray,
    prompt: str,
    options: BeamOptions,
) -> None:
    ids = record_expected.PROMPTS[prompt]
    row = inputs(ids)
    expected = whole.generate(
        **row,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        num_return_sequences=options.num_beams,
        return_dict_in_generate=True,
        output_scores=True,
        **options.report(),
    )
    found = reference.beams(prefix, ids, options, MAX_NEW_TOKENS)
    sequences = expected.sequences[:, row["input_ids"].shape[1] :].tolist()
    assert [answer.token_ids for answer in found] == [
        tokens[: len(answer.token_ids)] for tokens, answer in zip(sequences, found, strict=True)
    ]
    assert [answer.score for answer in found] == expected.sequences_scores.tolist()


def test_nothing_stands_behind_the_end_of_a_beam(checkpoint: Path, tmp_path: Path, prefix: np.ndarray) -> None:
    """The tiny checkpoint seldom ends its answers, so one is made that ends them with its most likely token."""
    from blip2_export.verification.reference import Reference

    first = Reference(checkpoint).greedy(prefix, [2], 3)[-1]
    document = tiny_checkpoint.config()
    document["text_config"]["eos_token_id"] = first
    folder = tiny_checkpoint.write_checkpoint(tmp_path / "ends", document)
    lengths = set()
    for answer in Reference(folder).beams(prefix, [2], BeamOptions(4), MAX_NEW_TOKENS):
        assert first not in answer.token_ids[:-1]
        lengths.add(len(answer.token_ids))
    assert len(lengths) > 1


def test_an_old_checkpoint_without_an_image_token_gives_the_same_answers(
    reference: Reference, tmp_path: Path, prefix: np.ndarray
) -> None:
    from blip2_export.verification.reference import Reference

    document = tiny_checkpoint.config()
    del document["image_token_index"]
    old = Reference(tiny_checkpoint.write_checkpoint(tmp_path / "old", document))
    ids = record_expected.PROMPTS["question"]
    assert old.greedy(prefix, ids, MAX_NEW_TOKENS) == reference.greedy(prefix, ids, MAX_NEW_TOKENS)


def test_the_state_after_the_last_layer_is_what_the_last_norm_reads(
    reference: Reference,
    whole: Any,  # noqa: ANN401
    prefix: np.ndarray,
) -> None:
    import torch

    pixel_values, ids = tiny_checkpoint.pixel_values(), record_expected.PROMPTS["question"]
    states = reference.vision_layers(pixel_values)
    assert states.shape == (2, 17, 24)
    with torch.no_grad():
        normed = whole.vision_model.post_layernorm(torch.from_numpy(states[-1:]))
    np.testing.assert_array_equal(normed, reference.image_embeds(pixel_values))
    states = reference.decoder_layers(prefix, ids, record_expected.ANSWER)
    assert states.shape == (2, 4 + len(ids) + len(record_expected.ANSWER) - 1, 32)
    with torch.no_grad():
        model = whole.language_model
        logits = model.lm_head(model.model.decoder.final_layer_norm(torch.from_numpy(states[-1])))
    expected = reference.teacher_forced(prefix, ids, record_expected.ANSWER)
    np.testing.assert_allclose(logits[-len(expected) :], expected, atol=1e-5)


def test_only_one_stage_is_in_memory(checkpoint: Path, prefix: np.ndarray) -> None:
    import weakref

    from blip2_export.verification.reference import Reference

    reference = Reference(checkpoint)
    embeds = reference.image_embeds(tiny_checkpoint.pixel_values())
    vision = weakref.ref(reference._stage[1])
    reference.query(embeds)
    assert vision() is None
    qformer = weakref.ref(reference._stage[1])
    reference.greedy(prefix, [2], 2)
    assert qformer() is None
    decoder = weakref.ref(reference._stage[1])
    reference.close()
    assert decoder() is None


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.encoder.layers.1.mlp.fc1.bias",
        "query_tokens",
        "language_projection.bias",
        "language_model.model.decoder.layers.0.fc2.weight",
    ],
)
@pytest.mark.parametrize("fault", ["missing", "has shape"])
def test_a_missing_or_misshapen_tensor_is_an_error(tmp_path: Path, name: str, fault: str) -> None:
    from blip2_export.verification.reference import Reference

    document = tiny_checkpoint.config()
    weights = tiny_checkpoint.tensors(document)
    if fault == "missing":
        del weights[name]
    else:
        weights[name] = np.concatenate([weights[name], weights[name]])
    folder = tiny_checkpoint.write_checkpoint(tmp_path / "faulty", document, weights)
    pixel_values, embeds = tiny_checkpoint.pixel_values(), np.zeros((1, 17, 24), np.float32)
    with pytest.raises(ExportError, match=f"{name} .*{fault}"):
        _run_all(Reference(folder), pixel_values, embeds)


def _run_all(reference: Reference, pixel_values: np.ndarray, embeds: np.ndarray) -> None:
    reference.image_embeds(pixel_values)
    reference.query(embeds)
    reference.greedy(np.zeros((1, 4, 32), np.float32), [2], 1)


def test_half_precision_weights_are_computed_in_f32(checkpoint: Path, tmp_path: Path) -> None:
    from blip2_export.verification.reference import Reference

    folder = tiny_checkpoint.write_checkpoint(tmp_path / "half", dtype="float16")
    shutil.copy(checkpoint / "config.json", folder / "config.json")
    exact, half = (Reference(path).image_embeds(tiny_checkpoint.pixel_values()) for path in (checkpoint, folder))
    assert half.dtype == np.float32
    error = np.abs(exact - half).max()
    assert 1e-6 < error < 0.02
