"""Words as the Stanford tokenizer cuts them, and the scores of captions. Needs the extra `evaluate`."""

from __future__ import annotations

import shutil

import pytest

from blip2_export.errors import ExportError
from blip2_export.evaluation.caption_metrics import caption_scores, stanford_words, treebank_words

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed (extra `evaluate`)")
pytest.importorskip("nltk", reason="nltk is not installed (extra `evaluate`)")

# Recorded from the Stanford tokenizer.
WORDS = {
    "": "",
    "...": "",
    "A man\nrides a bike .": "a man rides a bike",
    "Two dogs. One cat!": "two dogs one cat",
    "a red, white and well-lit room": "a red white and well-lit room",
    "the dog's ball; don't": "the dog 's ball do n't",
    'a "stop" sign (red)': "a stop sign -lrb- red -rrb-",
    'it says "No."': "it says no",
    "a T.V. at 7 p.m.": "a t.v. at 7 p.m.",
    "Mr. Smith's 3.5 m pole": "mr. smith 's 3.5 m pole",
    "$5 & 10% off": "$ 5 & 10 % off",
    "hello...world": "hello world",
}


@pytest.mark.parametrize(("text", "words"), WORDS.items())
def test_words_are_those_of_the_stanford_tokenizer(text: str, words: str) -> None:
    assert treebank_words([text]) == [words]


@pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")
def test_the_stanford_tokenizer_gives_the_recorded_words() -> None:
    assert stanford_words(list(WORDS)) == list(WORDS.values())


def test_without_java_the_stanford_tokenizer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match="install a Java runtime"):
        stanford_words(["a dog"])


def test_captions_that_people_wrote_score_highest_and_empty_ones_nothing() -> None:
    references = {1: ["A red circle on the left."], 2: ["Two blue squares near one star."]}
    perfect = caption_scores(
        {1: "a red circle on the left", 2: "two blue squares near one star"}, references, treebank_words
    )
    # CIDEr is 10 for a caption equal to its references, here times 100.
    assert perfect["CIDEr"] == pytest.approx(1000)
    assert perfect["BLEU-4"] == pytest.approx(100)
    assert perfect["ROUGE-L"] == pytest.approx(100)
    half = caption_scores({1: "a red circle on the left", 2: ""}, references, treebank_words)
    assert half["CIDEr"] == pytest.approx(500)
    assert half["ROUGE-L"] == pytest.approx(50)


def test_each_image_is_compared_with_its_own_references() -> None:
    references = {
        1: ["a red circle there", "one red circle there"],
        2: ["two blue stars here"],
        3: ["nothing at all now"],
    }
    right = {1: "a red circle there", 2: "two blue stars here", 3: "nothing at all now"}
    swapped = {1: right[2], 2: right[1], 3: right[3]}
    scores = [caption_scores(captions, references, treebank_words)["CIDEr"] for captions in (right, swapped)]
    assert scores[0] > 900 * 2 / 3
    assert scores[1] == pytest.approx(1000 / 3)
