"""What is sent to the server, how much of it at once, and what is printed."""

from __future__ import annotations

import base64
import threading
import time
from typing import TYPE_CHECKING

import pytest
from question_set import QUESTIONS, lines, prompt

from blip2_export.cli import main
from blip2_export.evaluation.asking import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from score_server import ScoreServer


def test_a_set_of_questions_is_asked_and_scored(
    vqa: list[str], server: ScoreServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[prompt(1)] = "no"
    assert main(vqa) == 0
    said = capsys.readouterr()
    table = [line.split() for line in said.out.splitlines()]
    assert ["VQA", "accuracy", "91.67", "%", "of", "12"] in table
    assert ["yes/no", "83.33", "%", "of", "6"] in table
    assert ["other", "100.00", "%", "of", "6"] in table
    assert ["what", "is", "91.67", "%", "of", "12"] in table
    assert "12 of 12, " in said.err
    assert "accuracy 91.67 % so far" in said.err
    assert set(server.asked) == {prompt(number) for number in range(QUESTIONS)}
    header, *answers = lines(tmp_path)
    assert (header["task"], header["template"], header["params"]) == ("vqa", "Question: {} Answer:", {})
    assert {(line["question_id"], line["answer"]) for line in answers} >= {(101, "no"), (100, "thing 0")}
    assert [line for line in answers if line["question_id"] == 104] == [
        {"question_id": 104, "image": "COCO_val2014_000000000001.jpg", "prompt": prompt(4), "answer": "thing 4"}
    ]


def test_images_params_and_prompts_are_sent_as_given(vqa: list[str], server: ScoreServer) -> None:
    assert main([*vqa, "--limit", "4", "--params", '{"max_new_tokens": 3}', "--template", "{}?"]) == 0
    sent = {body["input_data"]["data"][0][1]: body for body in server.bodies}
    assert set(sent) == {f"What is {number}??" for number in range(4)}
    body = sent["What is 3??"]
    assert body["input_data"]["columns"] == ["image", "text"]
    assert base64.b64decode(body["input_data"]["data"][0][0]) == b"picture 1"
    assert body["params"] == {"max_new_tokens": 3}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_rows_are_asked_so_many_at_once(vqa: list[str], server: ScoreServer, concurrency: int) -> None:
    server.together = threading.Barrier(concurrency)
    assert main([*vqa, "--concurrency", str(concurrency)]) == 0
    assert server.most_at_once == concurrency


def test_progress_says_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 105.0, 111.0, 112.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    so_far = Progress(total=40_000, done=1000)
    so_far.step("")
    so_far.step(", and more")
    so_far.step("")
    assert capsys.readouterr().err == "blip2_export: 1002 of 40000, 0.2 a second, 59 h 34 min left, and more\n"


def test_without_annotations_answers_are_kept_and_not_scored(
    vqa: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = vqa.index("--annotations")
    assert main([*vqa[:at], *vqa[at + 2 :]]) == 0
    assert capsys.readouterr().out == "12 of 12 questions answered, not scored: no --annotations\n"
    assert len(lines(tmp_path)) == 1 + QUESTIONS
