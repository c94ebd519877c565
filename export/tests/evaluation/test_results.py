"""The file of answers: what a later run adds to it, and what it refuses to touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from question_set import QUESTIONS, lines, prompt
from score_server import Reply, ScoreServer

from blip2_export.cli import main
from blip2_export.evaluation.asking import Progress

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_run_asks_only_what_is_missing(
    vqa: list[str], server: ScoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*vqa, "--limit", "5"]) == 0
    assert main(vqa) == 0
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == QUESTIONS
    assert "5 of 12 are answered" in capsys.readouterr().err
    server.shutdown()
    server.server_close()
    assert main(vqa) == 0, "with all answers at hand no server is needed"
    assert "100.00 %  of 12" in capsys.readouterr().out


@pytest.mark.parametrize("kept", ["nothing", "part of the header", "part of an answer"])
def test_a_line_that_was_cut_off_is_dropped_and_asked_again(
    vqa: list[str], server: ScoreServer, tmp_path: Path, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(vqa) == 0
    output = tmp_path / "answers.jsonl"
    whole = output.read_bytes()
    sizes = {"nothing": 0, "part of the header": 40, "part of an answer": len(whole) - 9}
    output.write_bytes(whole[: sizes[kept]])
    assert main(vqa) == 0
    assert ("cut off" in capsys.readouterr().err) == (kept != "nothing")
    assert sum(server.asked.values()) == QUESTIONS + (1 if kept == "part of an answer" else QUESTIONS)
    header, *answers = lines(tmp_path)
    assert header["blip2_evaluate"] == 1
    assert sorted(line["question_id"] for line in answers) == [100 + number for number in range(QUESTIONS)]


def test_an_interrupted_run_says_how_to_go_on(
    vqa: list[str], server: ScoreServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Progress.step

    def interrupt(self: Progress, note: str) -> None:
        step(self, note)
        if self.done == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", interrupt)
        assert main(vqa) == 130
    assert "4 answers are in " in capsys.readouterr().err
    assert main(vqa) == 0
    assert "4 of 12 are answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (["--params", '{"max_new_tokens": 3}'], 'params {}, now it is {"max_new_tokens": 3}'),
        (["--template", "{}"], 'template "Question: {} Answer:", now it is "{}"'),
        (["--name", "int8"], 'name "", now it is "int8"'),
    ],
)
def test_answers_of_other_settings_are_not_mixed(
    vqa: list[str], server: ScoreServer, changed: list[str], difference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*vqa, "--limit", "1"]) == 0
    assert main([*vqa, *changed]) == 2
    error = capsys.readouterr().err
    assert f"was begun with {difference}; name another --output" in error
    assert sum(server.asked.values()) == 1


def test_answers_to_other_questions_are_not_mixed(
    vqa: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*vqa, "--limit", "1"]) == 0
    questions = tmp_path / "questions.json"
    questions.write_text(questions.read_text().replace("What", "Where"))
    assert main(vqa) == 2
    assert "was begun with questions_sha256" in capsys.readouterr().err


def test_a_run_without_an_answer_leaves_the_file_free_for_other_settings(
    vqa: list[str], server: ScoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {prompt(0): [Reply(400, "params: num_beams is 5, but must be 1")]}
    assert main([*vqa, "--preset", "paper", "--concurrency", "1"]) == 2
    assert "answered 400: params: num_beams is 5, but must be 1" in capsys.readouterr().err
    assert main(vqa) == 0


@pytest.mark.parametrize("content", ["[1, 2]\n", "notes", '{"answer": 1}\n', "{\n"])
def test_a_file_of_something_else_is_left_alone(
    vqa: list[str], tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text(content)
    assert main(vqa) == 2
    assert "is not a file of `evaluate`; name another --output" in capsys.readouterr().err
    assert output.read_text() == content


def test_a_damaged_line_is_named(vqa: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(vqa) == 0
    output = tmp_path / "answers.jsonl"
    whole = output.read_text().splitlines()
    output.write_text("\n".join([*whole[:2], "{}", *whole[2:]]) + "\n")
    assert main(vqa) == 2
    assert "line 3 holds no answer; delete the line" in capsys.readouterr().err
