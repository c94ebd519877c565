"""A set of captions, asked and scored. Scores need the extra `evaluate`."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from question_set import lines, write
from score_server import Reply, ScoreServer

from blip2_export.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def captions(tmp_path: Path, server: ScoreServer) -> list[str]:
    """The command line of a set of 6 captioned images. Captions have no prompt, so the server says one thing."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        (images / f"{number:012}.jpg").write_bytes(b"picture %d" % number)
    texts = [["Two red circles on it.", "There are two red circles."]] + [
        [f"Picture {n} has nothing at all."] for n in range(1, 6)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in range(6)],
        "annotations": [{"image_id": n, "caption": text} for n in range(6) for text in texts[n]],
    }
    server.answers[""] = "two red circles on it"
    return [
        *("evaluate", "--task", "captions", "--url", server.url, "--images", str(images)),
        *("--annotations", str(write(tmp_path / "captions.json", content))),
        *("--output", str(tmp_path / "answers.jsonl")),
    ]


def _need_extra() -> None:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed (extra `evaluate`)")
    pytest.importorskip("nltk", reason="nltk is not installed (extra `evaluate`)")


def test_a_set_of_captions_is_asked_and_scored(
    captions: list[str], server: ScoreServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_extra()
    assert main(captions) == 0
    scores = dict(line.split() for line in capsys.readouterr().out.splitlines()[:6])
    assert list(scores) == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]
    # One of two references is met in one of six images.
    assert 0 < float(scores["CIDEr"]) < 1000 / 6
    assert server.asked == Counter({"": 6})
    sent = {base64.b64decode(body["input_data"]["data"][0][0]) for body in server.bodies}
    assert sent == {b"picture %d" % number for number in range(6)}
    header, *answers = lines(tmp_path)
    assert (header["task"], header["template"]) == ("captions", "")
    assert sorted(line["image_id"] for line in answers) == list(range(6))
    assert {line["caption"] for line in answers} == {"two red circles on it"}
    assert main(captions) == 0
    assert server.asked == Counter({"": 6})


def test_a_refused_image_counts_as_an_empty_caption(
    captions: list[str], server: ScoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_extra()
    server.faults = {"": [Reply(400, "row 0: not an image")] * 6}
    assert main(captions) == 1
    said = capsys.readouterr()
    assert said.out.startswith("CIDEr         0.00\n")
    assert "6 of 6 rows were refused and count as wrong; the first, 0: 400: row 0: not an image" in said.err


def test_an_image_without_captions_is_named(
    captions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_extra()
    path = tmp_path / "captions.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    write(path, content)
    assert main(captions) == 2
    assert "no annotation for image 5" in capsys.readouterr().err
    assert main([*captions, "--limit", "5"]) == 0


def test_without_the_extra_captions_are_not_even_asked(
    captions: list[str], server: ScoreServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert main(captions) == 2
    assert "install the extra `evaluate`: pip install 'blip2-export[evaluate]'" in capsys.readouterr().err
    assert not server.asked


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--template", "Question: {}"], "has a place {} for the question; --task is captions"),
        (["--preset", "paper"], "--preset paper has no settings for captions"),
        (["--questions", "questions.json"], "takes no --questions"),
    ],
)
def test_arguments_for_questions_do_not_fit_captions(
    captions: list[str], changed: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*captions, *changed]) == 2
    assert message in capsys.readouterr().err
