"""Files of questions, annotations and images: what is refused, in one line and before anything is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from question_set import write

from blip2_export.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from score_server import ScoreServer


def test_missing_images_are_named_before_anything_is_asked(
    vqa: list[str], server: ScoreServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "images" / "COCO_val2014_000000000002.jpg"
    missing.unlink()
    assert main(vqa) == 2
    assert f"question 106: {missing} not found (and 2 more); --images must name" in capsys.readouterr().err
    assert not server.asked
    assert main([*vqa, "--limit", "6"]) == 0, "images that are not needed may be missing"


def test_an_unanswered_question_is_named(vqa: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["question_id"] not in (103, 104)]
    write(path, content)
    assert main(vqa) == 2
    expected = f"{path}: no annotation for question 103, 2 in all without one; name the annotations of the same split\n"
    assert capsys.readouterr().err.endswith(expected)


def _set(path: tuple[str | int, ...], value: object) -> Callable[[Any], object]:
    def change(content: Any) -> object:  # noqa: ANN401 (any JSON)
        *way, last = path
        target = content
        for step in way:
            target = target[step]
        target[last] = value
        return content

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("questions", lambda _: [], 'holds no list of objects named "questions"'),
        ("questions", _set(("questions",), []), "holds no question"),
        ("questions", _set(("questions", 3), "what?"), 'holds no list of objects named "questions"'),
        ("questions", _set(("questions", 3, "question_id"), None), '"question_id" must be a number or string in {'),
        ("questions", _set(("questions", 3, "question_id"), 100), "some question ids occur twice"),
        ("questions", _set(("questions", 3, "question"), 5), '"question" must be a string in {'),
        ("questions", _set(("questions", 3, "image_id"), None), '"image_id" must be a number or string in {'),
        (
            "questions",
            _set(("data_subtype",), None),
            'holds no "data_subtype" to name the images by; give --image-name',
        ),
        ("annotations", _set(("annotations",), {}), 'holds no list of objects named "annotations"'),
        ("annotations", _set(("annotations", 3, "answers"), []), '"answers" must be a list of objects in {'),
        ("annotations", _set(("annotations", 3, "answers", 2), {"answer": 3}), '"answer" must be a string in {'),
        ("annotations", _set(("annotations", 3, "answer_type"), None), '"answer_type" must be a string in {'),
    ],
)
def test_files_of_another_shape_are_refused_in_one_line(
    vqa: list[str],
    tmp_path: Path,
    name: str,
    change: Callable[[Any], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"{name}.json"
    write(path, change(json.loads(path.read_text())))
    assert main(vqa) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_not_json_are_refused_in_one_line(
    vqa: list[str], tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "questions.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert main(vqa) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"blip2_export evaluate: {path}: ") or f"{path}: " in error
    assert "--questions must name" in error
    assert error.count("\n") == 1


def test_images_of_test_dev_are_those_of_test(vqa: list[str], tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    write(path, json.loads(path.read_text()) | {"data_subtype": "test-dev2015"})
    for image in (tmp_path / "images").iterdir():
        image.rename(image.with_name(image.name.replace("val2014", "test2015")))
    assert main(vqa) == 0
