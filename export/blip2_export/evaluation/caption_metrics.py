"""Computes CIDEr, BLEU and ROUGE-L of captions with the COCO evaluation code (pycocoevalcap).

Its tokenizer is a Java program, the Stanford tokenizer. NLTK's follows the same rules, the Penn Treebank's, without
Java, so it is the default; `stanford_words` runs the Java one, for the official number to the last digit.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blip2_export.evaluation.datasets import Id


# As the COCO code lists it, less what is nothing but periods. Brackets are meant to be dropped too, but that list has
# them in capitals, after the text was put in lower case: they stay, as -lrb-.
_PUNCTUATION = frozenset(("''", "'", "``", "`", "?", "!", ",", ":", "-", "--", ";"))
# The Stanford tokenizer leaves a period on an abbreviation only. NLTK leaves it on inside a text, and at its end takes
# it off any word.
_ENDS_A_SENTENCE = re.compile(r"(?!mr\.|mrs\.|ms\.|dr\.|st\.|mt\.|.\.$)[^.]+\.")
_LOST_ITS_PERIOD = re.compile(r"([a-z]\.)+[a-z]")


def need_metrics() -> None:
    """Checks that the extra is installed, before hours are spent on answers.

    Raises:
        ExportError: it is not installed.
    """
    try:
        importlib.import_module("nltk")
        importlib.import_module("pycocoevalcap")
    except ImportError as error:
        raise ExportError(
            f"{error.name} is missing; install the extra `evaluate`: pip install 'blip2-export[evaluate]'"
        ) from error


def treebank_words(texts: Sequence[str]) -> list[str]:
    """Splits captions into words with NLTK."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [_join(tokenizer.tokenize(text.lower(), convert_parentheses=True)) for text in texts]


def _join(tokens: list[str]) -> str:
    words = (_period(token.lower()) for token in tokens)
    return " ".join(word for word in words if word not in _PUNCTUATION and word.strip("."))


def _period(word: str) -> str:
    """Returns the word with or without its period, as the Stanford tokenizer leaves it."""
    if _LOST_ITS_PERIOD.fullmatch(word):
        return f"{word}."
    return word[:-1] if _ENDS_A_SENTENCE.fullmatch(word) else word


def stanford_words(texts: Sequence[str]) -> list[str]:
    """Splits captions into words with the Stanford tokenizer of pycocoevalcap.

    Raises:
        ExportError: there is no Java, or it fails.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # A text is a line there: no other line break may be in it, and an empty line would be lost.
    lines = {number: [{"caption": " ".join(text.split()) or "."}] for number, text in enumerate(texts)}
    try:
        words = PTBTokenizer().tokenize(lines)
    except OSError as error:
        raise ExportError(f"--tokenizer stanford runs Java: {error}; install a Java runtime or leave it out") from error
    if len(words) != len(texts) or any(len(lines) != 1 for lines in words.values()):
        raise ExportError("--tokenizer stanford: Java gave another number of lines; its message is above")
    return [words[number][0] for number in range(len(texts))]


def caption_scores(
    captions: dict[Id, str], references: dict[Id, list[str]], tokenize: Callable[[Sequence[str]], list[str]]
) -> dict[str, float]:
    """Returns the scores of captions against human references, times 100. Both have the same keys, at least one."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    keys = list(captions)
    given = {key: [words] for key, words in zip(keys, tokenize([captions[key] for key in keys]), strict=True)}
    words = iter(tokenize([text for key in keys for text in references[key]]))
    wanted = {key: [next(words) for _ in references[key]] for key in keys}
    cider, _ = Cider().compute_score(wanted, given)
    bleu, _ = Bleu().compute_score(wanted, given, verbose=0)
    rouge, _ = Rouge().compute_score(wanted, given)
    scores = {"CIDEr": cider, **{f"BLEU-{n}": value for n, value in enumerate(bleu, 1)}, "ROUGE-L": rouge}
    return {name: 100 * float(value) for name, value in scores.items()}


TOKENIZERS = {"nltk": treebank_words, "stanford": stanford_words}
