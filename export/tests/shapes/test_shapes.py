"""The drawn scenes and the questions about them: pure functions of split and index, with right answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blip2_export.cli import main
from blip2_export.shapes.questions import NUMBERS, caption, chat_exchange, question_exchange
from blip2_export.shapes.scenes import COLORS, HELD_OUT, MAX_OBJECTS, PLACES, SHAPES, TRAIN, draw_scene
from blip2_export.shapes.tokenizer import BOS, IMAGE, NEWLINE, encode, save_tokenizer, train_tokenizer
from blip2_export.verification.cases import read_cases

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(scenes=60)


def test_a_scene_can_be_drawn_again_and_differs_between_splits() -> None:
    for index in range(5):
        first, again, other = (draw_scene(split, index) for split in (TRAIN, TRAIN, HELD_OUT))
        assert np.array_equal(first.pixels, again.pixels)
        assert first.things != other.things


def test_every_object_lies_under_its_centre_in_its_colour() -> None:
    for index in range(30):
        scene = draw_scene(HELD_OUT, index)
        assert 1 <= len(scene.things) <= MAX_OBJECTS
        for thing in scene.things:
            x, y = (int(part) for part in thing.center)
            distances = {name: np.abs(scene.pixels[y, x] - np.array(color)).max() for name, color in COLORS.items()}
            assert min(distances, key=distances.get) == thing.color
            height, width, _ = scene.pixels.shape
            assert PLACES[3 * int(3 * y / height) + int(3 * x / width)] == thing.place


def test_questions_have_right_answers() -> None:
    seen = set()
    for index in range(200):
        scene = draw_scene(HELD_OUT, index)
        exchange = question_exchange(scene, np.random.default_rng(index))
        words = exchange.prompt.removeprefix("Question: ").removesuffix("? Answer:").split()
        seen.add(exchange.kind)
        if exchange.kind == "place":
            matching = [t for t in scene.things if t.shape == words[-1] and (len(words) == 4 or t.color == words[-2])]
            assert [thing.place for thing in matching] == [exchange.answer]
        elif exchange.kind == "yes_no":
            color, shape = set(words) & set(COLORS), set(words) & set(SHAPES)
            found = any((not color or t.color in color) and (not shape or t.shape in shape) for t in scene.things)
            assert exchange.answer == ("yes" if found else "no")
        elif exchange.kind == "count" and words[2] == "objects":
            assert exchange.answer == NUMBERS[len(scene.things)]
        elif exchange.kind == "color" and words[-1] in SHAPES:
            assert [t.color for t in scene.things if t.shape == words[-1]] == [exchange.answer]
    assert seen == {"color", "shape", "count", "yes_no", "place"}


def test_captions_name_the_objects_in_reading_order() -> None:
    for index in range(30):
        scene = draw_scene(HELD_OUT, index)
        words = caption(scene).replace(",", "").split()
        named = [(words[i - 1], word) for i, word in enumerate(words) if word in SHAPES]
        assert named == [(thing.color, thing.shape) for thing in scene.things]


def test_a_chat_carries_its_answered_turns() -> None:
    exchange = chat_exchange(draw_scene(HELD_OUT, 1), np.random.default_rng(0), earlier_turns=2)
    assert exchange.prompt.count("Question: ") == 3
    assert exchange.prompt.count(". Question: ") == 2
    assert exchange.prompt.endswith(" Answer:")


def test_the_tokenizer_has_the_roles_of_opt(tokenizer: Tokenizer, tmp_path: Path) -> None:
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[token] for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert vocabulary[IMAGE] == len(vocabulary) - 1
    assert tokenizer.encode("a red circle").ids[0] == BOS
    assert encode(tokenizer, "a\n")[-1] == vocabulary[NEWLINE]
    text = "Any bytes: ünïcode \u2603"
    assert tokenizer.decode(encode(tokenizer, text)) == text
    save_tokenizer(tokenizer, tmp_path)
    assert json.loads((tmp_path / "vocab.json").read_text())["</s>"] == BOS


def test_draw_shapes_writes_a_cases_file_that_verify_reads(tmp_path: Path) -> None:
    assert main(["draw-shapes", "--output", str(tmp_path), "--scenes", "2"]) == 0
    cases = read_cases(tmp_path / "cases.json", 20)
    assert len(cases) == 10
    assert {case.text == "" for case in cases} == {True, False}


def test_evaluate_shapes_without_a_server_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-shapes", "--url", "http://127.0.0.1:9/score", "--scenes", "1"]) == 2
    assert "make run" in capsys.readouterr().err


@pytest.mark.reference
def test_packed_prompts_give_the_logits_of_separate_rows(tokenizer: Tokenizer) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `reference`")
    pytest.importorskip("transformers", reason="needs the extra `reference`")
    from blip2_export.shapes.batches import SceneBatches
    from blip2_export.shapes.model import QUERY_TOKENS, build_config, build_model, normalise
    from blip2_export.shapes.train import answer_logits

    model = build_model(build_config(tokenizer), seed=0).eval()
    batch = SceneBatches(tokenizer, TRAIN, scenes=2, questions=2).collate(range(2))
    with torch.no_grad():
        logits = answer_logits(model, batch)[1]
        chosen = batch.segments[1, QUERY_TOKENS:] == 2
        image = torch.full((QUERY_TOKENS,), model.config.image_token_index)
        ids = torch.cat([image, batch.input_ids[1][chosen]])[None]
        pixels = normalise(batch.pixels[1:])
        alone = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits[1][chosen], alone[0, QUERY_TOKENS:], atol=1e-4, rtol=1e-4)
