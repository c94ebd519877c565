"""VQA accuracy against its published description, case by case, and against its definition by brute force."""

from __future__ import annotations

import random

import pytest

from blip2_export.evaluation.vqa_accuracy import normalise, vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        (" on\tthe\n left ", "on left"),
        ("a dog and an apple", "dog and apple"),
        ("the", ""),
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("cant", "can't"),
        ("thats oclock", "that's o'clock"),
        ("yall", "y'all"),
        ("girl's", "girl's"),
        ("girls", "girls"),
        ("2:50 p.m.", "2:50 pm"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("100,978", "100978"),
        ("1,000,000", "1000000"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("black-and-white", "black and white"),
        ("yes/no?!", "yes no"),
        ('[a] "(b)" {c} =+\\_<>@`;', "b c"),
        ("$5 & 10%", "$5 & 10%"),
    ],
)
def test_answers_are_normalised_as_described(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


@pytest.mark.parametrize("word", ["were", "well", "ill", "shell", "hell", "its", "lets", "id", "wed", "shed", "whore"])
def test_words_that_a_lost_apostrophe_would_also_give_stay(word: str) -> None:
    assert normalise(word) == word


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_of_ten_annotators(agreeing: int, expected: float) -> None:
    annotators = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
    assert vqa_accuracy("cat", annotators) == pytest.approx(expected)


def test_accuracy_equals_its_definition() -> None:
    rng = random.Random(0)
    for _ in range(200):
        annotators = rng.choices("abc", k=rng.randint(1, 12))
        shares = []
        for left_out in range(len(annotators)):
            others = annotators[:left_out] + annotators[left_out + 1 :]
            shares.append(min(1, others.count("b") / 3))
        assert vqa_accuracy("b", annotators) == pytest.approx(sum(shares) / len(shares))


def test_both_sides_are_normalised_even_if_all_agree() -> None:
    assert vqa_accuracy("Two.", ["2"] * 10) == 1
    assert vqa_accuracy("t shirt", ["a T-shirt"] * 10) == 1
