"""Reads VQAv2-format questions with their annotations, and COCO-format captions.

The files are untrusted, so their structure is checked. Images only need to exist here: they are read when sent.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Json = dict[str, Any]
Id = int | str

IMAGE_NAME = "COCO_{data_subtype}_{{:012}}.jpg"
"""The image of a question by its image_id, as in the folders of COCO 2014."""


@dataclass(frozen=True)
class Sample:
    """A row to ask: the id of its question (of its image, for captions), the image and the prompt."""

    id: Id
    image: Path
    text: str


@dataclass(frozen=True)
class Annotation:
    """The annotators' answers to a question."""

    question_type: str
    answer_type: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A JSON file of a data set, parsed, with the hash of its bytes."""

    path: Path
    content: Any
    sha256: str

    def entries(self, key: str) -> list[Json]:
        """Returns the list of objects under a key.

        Raises:
            ExportError: there is none.
        """
        value = self.content.get(key) if isinstance(self.content, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise ExportError(f'{self.path}: holds no list of objects named "{key}"; is it the right file?')
        return value

    def field(self, entry: Json, key: str, *kinds: type) -> Any:  # noqa: ANN401 (one of `kinds`)
        """Returns the value of an entry's key.

        Raises:
            ExportError: it is missing or of another type.
        """
        value = entry.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            name = " or ".join({str: "string", int: "number", list: "list"}[kind] for kind in kinds)
            raise ExportError(f'{self.path}: "{key}" must be a {name} in {_shorten(entry)}')
        return value


def read_source(path: Path, flag: str) -> Source:
    """Reads a file; `flag` is the option that named it.

    Raises:
        ExportError: it cannot be read or is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; {flag} must name a JSON file") from error
    try:
        return Source(path, json.loads(content), hashlib.sha256(content).hexdigest())
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: not JSON ({error}); {flag} must name the unpacked file") from error


def read_questions(
    source: Source, images: Path, prompt: Callable[[str], str], image_name: str | None, limit: int | None
) -> list[Sample]:
    """Returns the questions of a VQAv2-format file in order, at most `limit`. `image_name` is a pattern for image_id.

    Raises:
        ExportError: something is missing or of another shape.
    """
    entries = source.entries("questions")[:limit]
    if image_name is None:
        subtype = source.content.get("data_subtype")
        if not isinstance(subtype, str):
            raise ExportError(f'{source.path}: holds no "data_subtype" to name the images by; give --image-name')
        # The images of test-dev are those of test.
        image_name = IMAGE_NAME.format(data_subtype=subtype.replace("test-dev", "test"))
    return [
        Sample(
            source.field(entry, "question_id", int, str),
            images / _file_name(image_name, source.field(entry, "image_id", int, str)),
            prompt(source.field(entry, "question", str)),
        )
        for entry in entries
    ]


def read_annotations(source: Source, ids: Iterable[Id]) -> dict[Id, Annotation]:
    """Returns the annotations of these questions.

    Raises:
        ExportError: a question has none, or something is of another shape.
    """
    by_id = {source.field(entry, "question_id", int, str): entry for entry in source.entries("annotations")}
    wanted = list(ids)
    _check_complete(source, [key for key in wanted if key not in by_id], "question")
    return {key: _annotation(source, by_id[key]) for key in wanted}


def read_captioned(source: Source, images: Path, prompt: str, limit: int | None) -> list[Sample]:
    """Returns the images of a COCO-format file in order, at most `limit`.

    Raises:
        ExportError: something is missing or of another shape.
    """
    return [
        Sample(source.field(entry, "id", int, str), images / source.field(entry, "file_name", str), prompt)
        for entry in source.entries("images")[:limit]
    ]


def read_references(source: Source, ids: Iterable[Id]) -> dict[Id, list[str]]:
    """Returns the human captions of these images.

    Raises:
        ExportError: an image has none, or something is of another shape.
    """
    references: dict[Id, list[str]] = {key: [] for key in ids}
    for entry in source.entries("annotations"):
        captions = references.get(source.field(entry, "image_id", int, str))
        if captions is not None:
            captions.append(source.field(entry, "caption", str))
    _check_complete(source, [key for key, captions in references.items() if not captions], "image")
    return references


def check_samples(samples: list[Sample], path: Path, name: str) -> None:
    """Checks, before hours of asking, that there are samples, that ids are unique and that images exist.

    Raises:
        ExportError: a check failed. `name` is what an id stands for.
    """
    if not samples:
        raise ExportError(f"{path}: holds no {name}")
    if len({sample.id for sample in samples}) < len(samples):
        raise ExportError(f"{path}: some {name} ids occur twice; they must differ")
    exists: dict[Path, bool] = {}
    for sample in samples:
        if sample.image not in exists:
            exists[sample.image] = sample.image.is_file()
    missing = [sample for sample in samples if not exists[sample.image]]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ExportError(
            f"{name} {missing[0].id}: {missing[0].image} not found{others}; --images must name the folder of the images"
        )


def _file_name(pattern: str, image_id: Id) -> str:
    try:
        return pattern.format(image_id)
    except (ValueError, LookupError, AttributeError) as error:
        raise ExportError(f"--image-name {pattern!r} does not fit image_id {image_id!r}: {error}") from error


def _annotation(source: Source, entry: Json) -> Annotation:
    answers = source.field(entry, "answers", list)
    if not answers or not all(isinstance(answer, dict) for answer in answers):
        raise ExportError(f'{source.path}: "answers" must be a list of objects in {_shorten(entry)}')
    return Annotation(
        sys.intern(source.field(entry, "question_type", str)),
        sys.intern(source.field(entry, "answer_type", str)),
        tuple(sys.intern(source.field(answer, "answer", str)) for answer in answers),
    )


def _check_complete(source: Source, missing: list[Id], name: str) -> None:
    if missing:
        raise ExportError(
            f"{source.path}: no annotation for {name} {missing[0]}, {len(missing)} in all without one; "
            "name the annotations of the same split"
        )


def _shorten(entry: Json) -> str:
    text = json.dumps(entry)
    return text if len(text) <= 120 else f"{text[:120]}…"
