"""Cases: drawn images, and cases files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from blip2_export.errors import ExportError
from blip2_export.verification.cases import Case, drawn_cases, read_cases

if TYPE_CHECKING:
    from pathlib import Path


def test_drawn_images_are_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (drawn_cases(tmp_path / folder, 5) for folder in "ab")
    images = {case.image.read_bytes() for case in first}
    assert len(images) == 6
    assert images == {case.image.read_bytes() for case in second}


def test_a_cases_file_is_read_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    path = tmp_path / "cases.json"
    entries = [{"image": "cat.png", "text": ""}, {"image": "cat.png", "text": "q", "max_new_tokens": 3}]
    path.write_text(json.dumps({"cases": entries}))
    first, second = read_cases(path, 20)
    assert first == Case("cat-0", tmp_path / "cat.png", "", 20)
    assert (second.name, second.max_new_tokens) == ("cat-1", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not of the form"),
        ("{", "not of the form"),
        ('{"cases": []}', "has no cases, or two of one name"),
        ('{"cases": [{"image": "cat.png"}]}', "case 0 has no text"),
        ('{"cases": [{"image": "dog.png", "text": ""}]}', "dog.png: file not found"),
    ],
)
def test_a_bad_cases_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    (tmp_path / "cases.json").write_text(content)
    with pytest.raises(ExportError) as refused:
        read_cases(tmp_path / "cases.json", 20)
    assert message in str(refused.value)
