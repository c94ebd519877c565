"""Computes VQA accuracy: normalises answers and compares them with ten annotators, as visualqa.org describes.

Both sides are normalised, always, as the description says. Copies of the evaluation code leave the annotators' answers
as they are where all of them agree word for word: `t-shirt` is then counted wrong there, and right here.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ENOUGH_ANNOTATORS = 3
"""An answer of this many annotators is entirely right."""

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
_NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))

# Ending -> the words before it. Without an apostrophe, the ones left out are other words: we're, she'll, it's, let's.
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could i might must should they we what where who would you",
    "'re": "there they what why you",
    "'ll": "how it somebody someone something that they what who why you",
    "'s": "he how somebody someone that there what when where who why",
    "'d": "he how it someone something there they where who you",
    "": "i'm ma'am o'clock 'twas y'all",
}
_CONTRACTIONS = {
    word.replace("'", ""): word for ending, stems in _ENDINGS.items() for word in (s + ending for s in stems.split())
}

_COMMA_IN_A_NUMBER = re.compile(r"(?<=\d),(?=\d)")
# Not the apostrophe (girl's), nor the colon (2:50), nor signs that carry meaning in answers, such as $, % and &.
_PUNCTUATION = re.compile(r"""[;/\[\]"{}()=+\\_\-<>@`,?!]""")
_PERIOD_OUTSIDE_A_NUMBER = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=100_000)  # "yes" is normalised once, not a million times
def normalise(answer: str) -> str:
    """Normalises an answer: case, punctuation, articles, number words, lost apostrophes."""
    text = _COMMA_IN_A_NUMBER.sub("", answer.lower())
    text = _PERIOD_OUTSIDE_A_NUMBER.sub("", _PUNCTUATION.sub(" ", text))
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Returns the accuracy from 0 to 1: min(agreeing annotators / 3, 1), averaged over leaving out each in turn."""
    given = normalise(answer)
    counts = Counter(normalise(other) == given for other in annotators)
    agree, differ = counts[True], counts[False]
    # Leaving out one that agrees leaves one less to agree; there are `agree` such choices.
    shares = agree * _share(agree - 1) + differ * _share(agree)
    return shares / len(annotators)


def _share(agreeing: int) -> float:
    return min(1.0, agreeing / ENOUGH_ANNOTATORS)
