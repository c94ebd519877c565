"""The whole tool against an HTTP server that answers as `/score` does, and fails where it is told to."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from blip2_export.cli import main
from blip2_export.evaluation import client
from blip2_export.evaluation.asking import Progress
from blip2_export.evaluation.settings import choose_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Json = dict[str, Any]
DROP = "drop the connection"


class Reply(NamedTuple):
    """What the server says instead of an answer."""

    status: int
    message: str
    retry_after: str | None = None


class ScoreServer(ThreadingHTTPServer):
    """Answers each prompt with its own words, after the faults that are planned for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, str] = {}
        self.faults: dict[str, list[Reply | str]] = {}
        self.asked: Counter[str] = Counter()
        self.bodies: list[Json] = []
        self.at_once = self.most_at_once = 0
        self.together: threading.Barrier | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ScoreServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        [[_, text]] = body["input_data"]["data"]
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.asked[text] += 1
            server.bodies.append(body)
            fault = server.faults[text].pop(0) if server.faults.get(text) else None
        if server.together is not None:
            server.together.wait(timeout=30)
        with server.lock:
            server.at_once -= 1
        if self.path != "/score":
            fault = Reply(404, "no such path")
        if fault == DROP:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault is not None:
            self._send(fault.status, {"message": fault.message}, fault.retry_after)
        else:
            self._send(200, [{"text": server.answers.get(text, "nothing")}], None)

    def _send(self, status: int, content: object, retry_after: str | None) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScoreServer]:
    monkeypatch.setattr(client, "WAITS_S", (0.01, 0.01, 0.01))
    server = ScoreServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


QUESTIONS = 12


@pytest.fixture
def vqa(tmp_path: Path, server: ScoreServer) -> list[str]:
    """The command line of a set of 12 questions on 4 pictures; the server knows the right answers."""
    images = tmp_path / "images"
    images.mkdir()
    questions, annotations = [], []
    for number in range(QUESTIONS):
        image_id, question = number // 3, f"What is {number}?"
        (images / f"COCO_val2014_{image_id:012}.jpg").write_bytes(b"picture %d" % image_id)
        answer = "yes" if number % 2 else f"thing {number}"
        questions.append({"question_id": 100 + number, "image_id": image_id, "question": question})
        annotations.append(
            {
                "question_id": 100 + number,
                "question_type": "what is",
                "answer_type": "yes/no" if number % 2 else "other",
                "answers": [{"answer": answer, "answer_id": n} for n in range(10)],
            }
        )
        server.answers[prompt(number)] = answer
    paths = (
        write(tmp_path / "questions.json", {"data_subtype": "val2014", "questions": questions}),
        write(tmp_path / "annotations.json", {"annotations": annotations[::-1]}),
    )
    return [
        *("evaluate", "--task", "vqa", "--url", server.url, "--questions", str(paths[0])),
        *("--annotations", str(paths[1]), "--images", str(images), "--output", str(tmp_path / "answers.jsonl")),
    ]


def prompt(number: int) -> str:
    return f"Question: What is {number}? Answer:"


def lines(tmp_path: Path) -> list[Json]:
    return [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]


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


def test_pictures_params_and_prompts_are_sent_as_given(vqa: list[str], server: ScoreServer) -> None:
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
    assert f"question 105: {server.url}/score answered 503: loading; given up, run the same command again" in error
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


def test_missing_pictures_are_named_before_anything_is_asked(
    vqa: list[str], server: ScoreServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "images" / "COCO_val2014_000000000002.jpg"
    missing.unlink()
    assert main(vqa) == 2
    assert f"question 106: {missing} not found (and 2 more); --images names" in capsys.readouterr().err
    assert not server.asked
    assert main([*vqa, "--limit", "6"]) == 0, "pictures that are not needed may be missing"


def test_an_unanswered_question_is_named(vqa: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["question_id"] not in (103, 104)]
    write(path, content)
    assert main(vqa) == 2
    expected = f"{path}: no annotation for question 103, 2 in all without one; name the annotations of the same split\n"
    assert capsys.readouterr().err.endswith(expected)


def test_without_annotations_answers_are_kept_and_not_scored(
    vqa: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = vqa.index("--annotations")
    assert main([*vqa[:at], *vqa[at + 2 :]]) == 0
    assert capsys.readouterr().out == "12 of 12 questions answered, not scored: no --annotations\n"
    assert len(lines(tmp_path)) == 1 + QUESTIONS


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
            'holds no "data_subtype" to name the pictures by; give --image-name',
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
    assert "--questions names" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--template", "Question"], "--template 'Question' has no place {} for the question"),
        (["--image-name", "{:012}{}.jpg"], "--image-name '{:012}{}.jpg' does not fit image_id 0"),
        (["--output", "/nowhere/at/all"], "/nowhere/at/all: No such file or directory; --output names"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    vqa: list[str], changed: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*vqa, *changed]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed", [["--params", "["], ["--params", "3"], ["--limit", "0"], ["--timeout", "0"], ["--task", "chat"]]
)
def test_usage_errors_are_exit_code_2(vqa: list[str], changed: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*vqa, *changed])
    assert ended.value.code == 2


def test_pictures_of_test_dev_are_those_of_test(vqa: list[str], tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    write(path, json.loads(path.read_text()) | {"data_subtype": "test-dev2015"})
    for picture in (tmp_path / "images").iterdir():
        picture.rename(picture.with_name(picture.name.replace("val2014", "test2015")))
    assert main(vqa) == 0


def test_progress_says_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 105.0, 111.0, 112.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    so_far = Progress(total=40_000, done=1000)
    so_far.step("")
    so_far.step(", and more")
    so_far.step("")
    assert capsys.readouterr().err == "blip2_export: 1002 of 40000, 0.2 a second, 59 h 34 min left, and more\n"


def test_presets_are_the_published_settings_and_can_be_changed() -> None:
    paper = choose_settings("vqa", "paper", None, None)
    assert paper.prompt("What is it?") == "Question: What is it? Answer:"
    assert (paper.params["num_beams"], paper.params["length_penalty"]) == (5, -1)
    lavis = choose_settings("vqa", "lavis", None, {"num_beams": 1})
    assert lavis.prompt('Is "it" (a) Dog?') == "Question: is it a dog? Short answer:"
    assert lavis.prompt("w " * 60) == f"Question: {' '.join(['w'] * 50)} Short answer:"
    assert lavis.params == {"num_beams": 1, "length_penalty": 0, "max_new_tokens": 10, "min_new_tokens": 1}
    assert choose_settings("vqa", None, None, None).params == {}
    assert choose_settings("vqa", None, None, None).prompt("{} {0}?") == "Question: {} {0}? Answer:"


@pytest.fixture
def captions(tmp_path: Path, server: ScoreServer) -> list[str]:
    """The command line of a set of 6 captioned pictures. Captions have no prompt, so the server says one thing."""
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
    # One of two references is met in one of six pictures.
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


def test_a_refused_picture_counts_as_an_empty_caption(
    captions: list[str], server: ScoreServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_extra()
    server.faults = {"": [Reply(400, "row 0: not an image")] * 6}
    assert main(captions) == 1
    said = capsys.readouterr()
    assert said.out.startswith("CIDEr         0.00\n")
    assert "6 of 6 rows were refused and count as wrong; the first, 0: 400: row 0: not an image" in said.err


def test_a_picture_without_captions_is_named(
    captions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_extra()
    path = tmp_path / "captions.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    write(path, content)
    assert main(captions) == 2
    assert "no annotation for picture 5" in capsys.readouterr().err
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
