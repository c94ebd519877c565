"""Chooses golden answers: a few cases with their expected token ids, replayed wherever the bundle is served.

Only cases qualify on which the bundle agrees with the reference and no decision was close, so that another
machine's rounding cannot change them. Different images and prompts come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export.files import json_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.verification.cases import Case

Json = dict[str, Any]

FOLDER = "golden/"
# In units of logits. Rounding differs by less than 0.001 in fp32 between machines, by about 0.01 in int8.
SMALLEST_MARGIN = 0.1


@dataclass(frozen=True)
class Answer:
    """A case with the bundle's greedy answer and the smallest gap between its best and second best logit."""

    case: Case
    prompt_ids: list[int]
    token_ids: list[int]
    text: str
    margin: float
    equals_reference: bool


def choose(answers: Sequence[Answer], count: int) -> list[Answer]:
    """Returns up to `count` safe answers: least used images and prompts first, then the clearest decisions."""
    left = [answer for answer in answers if answer.equals_reference and answer.margin >= SMALLEST_MARGIN]
    chosen: list[Answer] = []
    while left and len(chosen) < count:
        best = min(left, key=lambda answer: (_uses(chosen, answer), -answer.margin, answer.case.name))
        left.remove(best)
        chosen.append(best)
    return chosen


def _uses(chosen: Sequence[Answer], answer: Answer) -> int:
    """Returns how often the image and the prompt of an answer are used already."""
    same_image = sum(other.case.image == answer.case.image for other in chosen)
    return same_image + sum(other.case.text == answer.case.text for other in chosen)


def golden_files(answers: Sequence[Answer], reference: str) -> dict[str, bytes]:
    """Returns the files below golden/, by their names in the bundle."""
    images: dict[str, bytes] = {}
    cases = []
    for answer in sorted(answers, key=lambda answer: answer.case.name):
        image = _image_name(answer.case, images)
        images[image] = answer.case.image.read_bytes()
        cases.append(_entry(answer, image))
    document = {"schema_version": 1, "reference": reference, "cases": cases}
    files = {"cases.json": json_bytes(document), **images}
    return {f"{FOLDER}{name}": content for name, content in files.items()}


def _image_name(case: Case, taken: dict[str, bytes]) -> str:
    """Returns the image's own name, unless another image has it."""
    name = case.image.name
    if taken.get(name, content := case.image.read_bytes()) == content:
        return name
    return f"{case.name}{case.image.suffix}"


def _entry(answer: Answer, image: str) -> Json:
    return {
        "name": answer.case.name,
        "image": image,
        "text": answer.case.text,
        "max_new_tokens": answer.case.max_new_tokens,
        "prompt_ids": answer.prompt_ids,
        "token_ids": answer.token_ids,
        "answer": answer.text,
    }
