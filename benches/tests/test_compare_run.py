"""A run on the tiny bundle, without torch; and the parts that talk to processes, each alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from compare import machine
from compare.cases import KINDS, Case
from compare.cli import REPOSITORY, main
from compare.contenders import Measurement, Place, TransformersContender
from compare.errors import CompareError
from compare.pictures import write_picture
from compare.processes import Usage
from compare.rates import read_bandwidth
from compare.results import Results
from compare.rounds import Plan
from compare.server_client import Request, parse_server_timing
from PIL import Image

BINARIES = [REPOSITORY / "target" / kind / "blip2" for kind in ("release", "debug")]
LIBRARY = REPOSITORY / ".ort" / "libonnxruntime.so"


def test_a_run_measures_the_tiny_bundle_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    binary = next((binary for binary in BINARIES if binary.is_file()), None)
    if binary is None or not LIBRARY.is_file():
        pytest.skip("blip2 is not built; `make build` builds it")
    rates = {"bandwidth": 1e10, "int8": 1e12, "fp32": 1e11}
    monkeypatch.setattr("compare.cli.measure_rates", lambda *_, **__: rates)
    cases = ["one-5", "first-token", "repeated", "ten-questions"]
    arguments = ["run", "--checkpoint", str(REPOSITORY / "onnx/checkpoint"), "--transformers"]
    arguments += ["--bundles", str(REPOSITORY / "onnx/blip2-shapes-int8"), "--binary", str(binary)]
    arguments += ["--ort-library", str(LIBRARY), "--cases", *cases, "--repeats", "1", "--output", str(tmp_path)]

    main([*arguments, "--rounds", "1"])
    results = Results.read(tmp_path / "results.json")
    assert list(results.cases) == cases
    assert all(results.spread("blip2 int8", case).least > 0 for case in cases)
    assert results.floor("blip2 int8", "one-5") > 0
    assert (tmp_path / "README.md").is_file()

    with pytest.raises(SystemExit, match="holds results already"):
        main([*arguments, "--rounds", "2"])
    main([*arguments, "--rounds", "2", "--resume"])
    assert [run["round"] for run in Results.read(tmp_path / "results.json").document["runs"]] == [0, 1]
    assert "round 2 of 2" in capsys.readouterr().err


def test_a_contender_that_fails_leaves_the_others_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("compare.cli.measure_rates", lambda *_, **__: {"bandwidth": 1e10, "bf16": 1e12, "fp32": 1e11})
    monkeypatch.setattr("compare.contenders._RunningTransformers", _FailingInFp32)
    arguments = ["--checkpoint", str(REPOSITORY / "onnx/checkpoint"), "--transformers", "fp32", "bf16"]
    with pytest.raises(SystemExit, match="measured without transformers fp32"):
        main(["run", *arguments, "--cases", "one-5", "ten-questions", "--rounds", "2", "--output", str(tmp_path)])
    runs = Results.read(tmp_path / "results.json").document["runs"]
    assert [(run["round"], run["contender"]) for run in runs] == [(0, "transformers bf16"), (1, "transformers bf16")]
    tried = [[entry["batch"] for entry in run["measurements"]] for run in runs]
    assert tried == [[None, 10, 1], [None, 1]]  # both sizes of batch, then the better one
    assert "transformers fp32 failed: out of memory" in capsys.readouterr().err


class _FailingInFp32:
    """A worker that needs no torch: a row takes a second, and a batch one more for each further row."""

    start_s = first_answer_s = 1.0

    def __init__(self, arguments: list[str], place: Place, log_name: str) -> None:
        del place, log_name
        self.versions = {}
        if "fp32" in arguments:
            raise CompareError("out of memory")

    def measure(self, case: Case, batch: int) -> Measurement:
        return Measurement(case.kind.name, [float(batch)], batch if case.kind.rows > 1 else None)

    def stop(self) -> Usage:
        return Usage()


def test_the_order_of_contenders_rotates() -> None:
    contenders = [TransformersContender(spec, Path()) for spec in ("fp32", "bf16", "fp16")]
    plan = Plan(contenders, KINDS, frozenset({"transformers fp32"}), 3, 2, None)
    firsts = [plan.order(number)[0].spec for number in range(3)]
    assert firsts == ["fp32", "bf16", "fp16"]
    assert all(kind.is_quick for kind in plan.kinds_of(contenders[0]))
    assert plan.kinds_of(contenders[1]) == list(KINDS)
    assert [plan.repeats_of(contender) for contender in contenders] == [1, 2, 2]


@pytest.mark.parametrize("spec", ["int8", "bf16+fast", "bf16+int8-weights+int8-dynamic", ""])
def test_an_unknown_type_is_refused(spec: str) -> None:
    with pytest.raises(CompareError, match="not one of"):
        TransformersContender(spec, Path())


def test_a_request_forces_the_number_of_new_tokens() -> None:
    body = json.loads(Request.make(b"jpeg", "Question: why? Answer:", 5, streamed=True).body)
    assert (body["min_new_tokens"], body["max_tokens"], body["stream"]) == (5, 5, True)


def test_server_timing_is_read_by_name() -> None:
    assert parse_server_timing("queue;dur=1.200, qformer;dur=560.000") == {"queue": 1.2, "qformer": 560.0}
    assert parse_server_timing("") == {}


def test_pictures_depend_on_their_seed_alone(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (write_picture(folder, 7).read_bytes() for folder in folders)
    assert first == second
    assert first != write_picture(folders[0], 8).read_bytes()
    assert 30_000 < len(first) < 200_000
    assert np.asarray(Image.open(folders[0] / "7.jpg")).shape == (480, 640, 3)


def test_reading_memory_has_a_rate() -> None:
    assert read_bandwidth(threads=2, size=1 << 20) > 0


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("AMD EPYC 9575F 64-Core Processor", "amd-epyc-9575f"),
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "intel-xeon-platinum-8480"),
        ("", "unknown"),
    ],
)
def test_a_machine_has_a_short_name(name: str, slug: str) -> None:
    assert machine.slug({"cpu": name}) == slug
