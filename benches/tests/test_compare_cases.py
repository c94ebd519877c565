"""The cases: what is fresh, what is shared, and how rows become static batches."""

from __future__ import annotations

import pytest
from compare.cases import BY_NAME, KINDS, MIXED_LENGTHS, Manner, cases_of_round, static_batches

ALL_ROUNDS = [case for number in range(3) for case in cases_of_round(number, KINDS, repeats=2)]


def test_no_two_passes_share_a_picture() -> None:
    passes = [{ask.picture for ask in rows} for case in ALL_ROUNDS for rows in case.passes]
    assert sum(map(len, passes)) == len(set().union(*passes))


def test_rows_of_a_pass_have_their_own_pictures_but_for_the_ten_questions() -> None:
    for case in ALL_ROUNDS:
        pictures = 1 if case.kind.name == "ten-questions" else case.kind.rows
        assert {len({ask.picture for ask in rows}) for rows in case.passes} == {pictures}


def test_ten_questions_differ() -> None:
    (rows,) = cases_of_round(0, [BY_NAME["ten-questions"]], 1)[0].passes
    assert len({ask.text for ask in rows}) == 10


def test_requests_alone_are_repeated_and_others_are_not() -> None:
    for case in ALL_ROUNDS:
        assert len(case.passes) == (1 if case.kind.manner is Manner.TOGETHER else 2)


def test_mixed_lengths_reach_from_least_to_most_and_are_not_sorted() -> None:
    (rows,) = cases_of_round(0, [BY_NAME["mixed-lengths"]], 1)[0].passes
    lengths = [ask.new_tokens for ask in rows]
    assert (min(lengths), max(lengths)) == MIXED_LENGTHS
    assert lengths != sorted(lengths)


@pytest.mark.parametrize(("size", "sizes"), [(16, [16]), (6, [6, 6, 4]), (1, [1] * 16), (99, [16])])
def test_static_batches_keep_order_and_rows(size: int, sizes: list[int]) -> None:
    (rows,) = cases_of_round(0, [BY_NAME["at-once-16"]], 1)[0].passes
    batches = static_batches(rows, size)
    assert [len(batch) for batch in batches] == sizes
    assert [ask for batch in batches for ask in batch] == rows
