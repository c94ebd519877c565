"""What is asked of every contender: the same bytes, the same texts, the same numbers of new tokens.

A case is a list of passes; each is timed by itself, from its first byte to its last answer. Every pass has pictures of
its own that no process has seen before, so no cache helps, except in the case that is about one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NEW_TOKENS = 17
FIRST_QUESTION = "what is this?"  # asked before others, untimed
QUESTIONS = (
    "what is in the picture?",
    "how many people are there?",
    "what color is the largest object?",
    "is it day or night?",
    "where was this picture taken?",
    "is there an animal?",
    "what is on the left?",
    "what is the weather like?",
    "is this indoors or outdoors?",
    "what is it made of?",
)
MIXED_LENGTHS = (4, 32)  # least and most new tokens of the case whose answers differ
SEEDS_A_ROUND = 1000  # more pictures than a round has


class Manner(Enum):
    """How the rows of a pass are sent."""

    ALONE = "alone"  # one row
    STREAMED = "streamed"  # one row; timed until its first token
    REPEATED = "repeated"  # one row; its picture was asked about before, untimed
    TOGETHER = "together"  # all rows at once


@dataclass(frozen=True)
class Ask:
    """One row: a picture by its seed, a text, and how many tokens the answer has."""

    picture: int
    text: str
    new_tokens: int


@dataclass(frozen=True)
class CaseKind:
    """A case before its pictures are known."""

    name: str
    title: str
    manner: Manner
    make: Callable[[Iterator[int], int], list[Ask]]  # rows of one pass, from fresh seeds and a number of rows
    rows: int = 1
    batches: tuple[int, ...] = (1,)  # sizes of static batch that transformers may try; the best one counts
    is_quick: bool = False  # also for contenders that are too slow for everything


@dataclass(frozen=True)
class Case:
    """A case of one round."""

    kind: CaseKind
    passes: Sequence[Sequence[Ask]]


def question(text: str) -> str:
    """The template that the model was trained with."""
    return f"Question: {text} Answer:"


def _different(new_tokens: int) -> Callable[[Iterator[int], int], list[Ask]]:
    return lambda seeds, rows: [Ask(next(seeds), question(QUESTIONS[0]), new_tokens) for _ in range(rows)]


def _one_picture(seeds: Iterator[int], rows: int) -> list[Ask]:
    picture = next(seeds)
    return [Ask(picture, question(QUESTIONS[row % len(QUESTIONS)]), NEW_TOKENS) for row in range(rows)]


def _mixed(seeds: Iterator[int], rows: int) -> list[Ask]:
    lengths = np.linspace(*MIXED_LENGTHS, rows).round().astype(int)
    # Shuffled always the same: whoever asks does not sort their questions by the length of the answers.
    lengths = np.random.default_rng(0).permutation(lengths)
    return [Ask(next(seeds), question(QUESTIONS[0]), int(new_tokens)) for new_tokens in lengths]


KINDS = (
    CaseKind("one-1", "one request, 1 new token", Manner.ALONE, _different(1), is_quick=True),
    CaseKind("one-5", "one request, 5 new tokens", Manner.ALONE, _different(5), is_quick=True),
    CaseKind("one-17", "one request, 17 new tokens", Manner.ALONE, _different(17), is_quick=True),
    CaseKind("first-token", "first token of a streamed answer", Manner.STREAMED, _different(NEW_TOKENS)),
    CaseKind("repeated", "a repeated picture, 17 new tokens", Manner.REPEATED, _different(NEW_TOKENS)),
    CaseKind("at-once-8", "8 pictures at once", Manner.TOGETHER, _different(17), 8, (8,), is_quick=True),
    CaseKind("at-once-16", "16 pictures at once", Manner.TOGETHER, _different(17), 16, (16,)),
    CaseKind("ten-questions", "10 questions about one picture", Manner.TOGETHER, _one_picture, 10, (10, 1)),
    CaseKind("captions", "32 pictures, 16 at a time", Manner.TOGETHER, _different(17), 32, (16, 8)),
    CaseKind("mixed-lengths", "16 answers of 4 to 32 tokens", Manner.TOGETHER, _mixed, 16, (16, 8)),
)
BY_NAME = {kind.name: kind for kind in KINDS}


def cases_of_round(round_number: int, kinds: Sequence[CaseKind], repeats: int) -> list[Case]:
    """The cases of a round, all pictures fresh. Requests that come alone are repeated, as they are short."""
    seeds = iter(range(round_number * SEEDS_A_ROUND, (round_number + 1) * SEEDS_A_ROUND))
    cases = []
    for kind in kinds:
        passes = 1 if kind.manner is Manner.TOGETHER else repeats
        cases.append(Case(kind, [kind.make(seeds, kind.rows) for _ in range(passes)]))
    return cases


def static_batches(rows: Sequence[Ask], size: int) -> list[list[Ask]]:
    """Rows in the order in which they come, `size` at a time."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
