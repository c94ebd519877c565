"""Servers that are busy, refuse, break off, or are not there."""

from __future__ import annotations

import socket
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from question_set import QUESTIONS, lines, prompt
from score_server import DROP, Reply, ScoreServer

from blip2_export.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("fault", [Reply(429, "queue full"), Reply(503, "loading"), DROP])
def test_a_busy_server_is_asked_again(vqa: list[str], server: ScoreServer, fault: Reply | str) -> None:
    server.faults = {prompt(3): [fault, fault], prompt(7): [fault]}
    assert main([*vqa, "--concurrency", "1"]) == 0
    assert server.asked == Counter({prompt(number): 1 for number in range(QUESTIONS)}) + Counter(
        {prompt(3): 2, prompt(7): 1}
    )


def test_retry_after_is_honoured(vqa: list[str], server: ScoreServer) -> None:
    server.faults = {prompt(0): [Reply(429, "queue full", "1")]}
    started = time.monotonic()
    assert main([*vqa, "--limit", "1"]) == 0
    assert time.monotonic() - started >= 1


def test_a_server_that_stays_busy_ends_the_run_and_the_next_one_goes_on(
    vqa: list[str], server: ScoreServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {prompt(5): [Reply(503, "loading")] * 4}
    assert main([*vqa, "--concurrency", "1"]) == 2
    error = capsys.readouterr().err
    assert (
        f"question 105: {server.url}/score answered 503: loading; gave up, run the same command again to resume"
        in error
    )
    assert len(lines(tmp_path)) == 1 + 5
    assert main(vqa) == 0
    assert server.asked[prompt(0)] == 1


@pytest.mark.parametrize(
    "fault", [Reply(400, "row 0: not an image"), Reply(413, "too large"), Reply(500, "failed"), Reply(504, "late")]
)
def test_a_refused_row_counts_as_wrong_and_is_asked_again_next_time(
    vqa: list[str], server: ScoreServer, tmp_path: Path, fault: Reply, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {prompt(2): [fault]}
    assert main(vqa) == 1
    said = capsys.readouterr()
    assert "VQA accuracy                  91.67 %  of 12" in said.out
    assert f"1 of 12 rows were refused and count as wrong; the first, 102: {fault.status}: {fault.message}" in said.err
    [line] = [line for line in lines(tmp_path)[1:] if "error" in line]
    assert (line["question_id"], line["error"]) == (102, f"{fault.status}: {fault.message}")
    assert main(vqa) == 0
    assert "100.00 %  of 12" in capsys.readouterr().out
    assert server.asked == Counter({prompt(number): 1 for number in range(QUESTIONS)}) + Counter([prompt(2)])


@pytest.mark.parametrize("fault", [Reply(400, "params: unknown parameter"), Reply(415, "not JSON"), Reply(401, "who?")])
def test_what_would_hit_every_row_ends_the_run(
    vqa: list[str], server: ScoreServer, fault: Reply, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {prompt(0): [fault]}
    assert main([*vqa, "--concurrency", "1"]) == 2
    assert f"question 100: {server.url}/score answered {fault.status}: {fault.message}\n" in capsys.readouterr().err
    assert set(server.asked) == {prompt(0)}


def test_a_server_out_of_reach_is_named_at_once(vqa: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert main([*vqa, "--url", f"http://127.0.0.1:{port}"]) == 2
    error = capsys.readouterr().err
    assert f"http://127.0.0.1:{port}/score: no answer: [Errno 111] Connection refused; start the server" in error


def test_a_server_that_does_not_answer_in_time_is_named(vqa: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main([*vqa, "--url", url, "--timeout", "0.1", "--limit", "1"]) == 2
    assert f"{url}/score: no answer within 0.1 s (--timeout)" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:5001", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_url_is_refused(vqa: list[str], url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*vqa, "--url", url]) == 2
    assert f"--url {url}: not a URL" in capsys.readouterr().err


def test_a_url_with_a_path_is_taken_as_it_is(
    vqa: list[str], server: ScoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*vqa, "--limit", "1", "--url", f"{server.url}/score"]) == 0
    assert main([*vqa, "--url", f"{server.url}/other"]) == 2
    assert "/other answered 404: no such path" in capsys.readouterr().err


def test_an_answer_of_another_form_is_refused(
    vqa: list[str], server: ScoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {prompt(0): [Reply(200, "hello")]}
    assert main([*vqa, "--limit", "1"]) == 2
    assert 'did not answer [{"text": …}]' in capsys.readouterr().err
