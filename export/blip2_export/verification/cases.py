"""Reads or draws the images and prompts of a verification."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError
from blip2_export.verification.sample_images import PROMPTS, save_images

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An image with a prompt."""

    name: str
    image: Path
    text: str
    max_new_tokens: int


def drawn_cases(folder: Path, max_new_tokens: int) -> list[Case]:
    """Draws images into `folder`, and returns each with every general prompt."""
    return [
        Case(f"{image.stem}-{number}", image, text, max_new_tokens)
        for image in save_images(folder)
        for number, text in enumerate(PROMPTS)
    ]


def read_cases(path: Path, max_new_tokens: int) -> list[Case]:
    """Returns the cases of a file.

    Raises:
        ExportError: the file cannot be read, or an entry lacks a field, or an image is missing.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; --cases must name a JSON file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f'{path}: not of the form {{"cases": [{{"image": …, "text": …}}]}}') from error
    cases = [_case(path, number, entry, max_new_tokens) for number, entry in enumerate(entries)]
    names = [case.name for case in cases]
    if not cases or len(set(names)) != len(names):
        raise ExportError(f"{path}: has no cases, or two of one name; list at least one, and name each differently")
    return cases


def _case(path: Path, number: int, entry: Json, max_new_tokens: int) -> Case:
    for key in ("image", "text"):
        if not isinstance(entry.get(key), str):
            raise ExportError(f"{path}: case {number} has no {key}")
    image = path.parent / entry["image"]
    if not image.is_file():
        raise ExportError(f"{image}: file not found, named by case {number} of {path}")
    name = entry.get("name", f"{image.stem}-{number}")
    return Case(name, image, entry["text"], entry.get("max_new_tokens", max_new_tokens))
