"""`python -m gpu_check`, on a machine without a GPU and beside a nvidia-smi that pretends one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gpu_check import cli
from gpu_check.machine import NoGpuError, find_gpu
from gpu_check.runner import FAILED, PASSED, SKIPPED, Runner
from gpu_check.stages import Command, Need, Places, Stage, stages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Json = dict[str, Any]
H100 = "NVIDIA H100 80GB HBM3, 580.95.05, 9.0, 81559"
NO_DRIVER = "no NVIDIA driver: nvidia-smi not found"


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without nvidia-smi, whatever is on this machine."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a nvidia-smi on the PATH that says a line."""

    def put(line: str, code: int = 0) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\necho '{line}'\nexit {code}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return put


def results(folder: Path) -> Json:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.usefixtures("no_gpu")
def test_without_a_driver_the_stages_for_a_gpu_fail_and_say_why(tmp_path: Path) -> None:
    output = tmp_path / "out"
    chosen = ["--only", "machine", "verify-tiny-cuda-fp16", "test-cuda", "compare"]
    assert cli.main(["--quick", *chosen, "--work", str(tmp_path / "work"), "--output", str(output)]) == 1
    document = results(output)
    found = {stage["stage"]: stage for stage in document["stages"]}
    for name in chosen[1:]:
        assert (found[name]["status"], found[name]["reason"]) == (FAILED, NO_DRIVER)
    assert (found["build"]["status"], found["build"]["reason"]) == (SKIPPED, "not among --only")
    assert (document["gpu"], document["why"]) == (None, NO_DRIVER)


@pytest.mark.usefixtures("no_gpu")
def test_a_dry_run_prints_every_command_and_runs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--dry-run", "--skip", "build", "--work", str(tmp_path / "work")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"# {NO_DRIVER}")
    for words in ("make-checkpoint", "--target tensorrt --precision fp16", "--provider tensorrt", "-m compare run"):
        assert words in said
    for variable in ("BLIP2_TEST_PROVIDER=cuda", "BLIP2_TEST_PROVIDER=tensorrt", "BLIP2_TEST_BUNDLE="):
        assert variable in said
    assert "cargo build" not in said
    assert not (tmp_path / "work").exists()


def test_an_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--quick", "--only", "verify"]) == 2
    assert "no stage verify; --list names them" in capsys.readouterr().err


def test_the_gpu_is_read_and_names_the_folder(pretend: Callable[..., None], tmp_path: Path) -> None:
    pretend(H100)
    gpu = find_gpu(0)
    assert (gpu.driver, gpu.compute_capability, gpu.memory_mib) == ("580.95.05", "9.0", 81559)
    assert cli.main(["--quick", "--only", "machine", "--work", str(tmp_path)]) == 0
    [folder] = (tmp_path / "results").iterdir()
    assert folder.name.endswith("-nvidia-h100-80gb-hbm3")
    document = results(folder)
    assert document["gpu"]["name"] == "NVIDIA H100 80GB HBM3"
    machine = document["stages"][0]
    assert (machine["status"], machine["log_tail"][-1]) == (PASSED, H100)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("NVIDIA A100, 570.86.10, 8.0, 40960", 0, "driver 570.86.10 is too old for CUDA 13: install 580 or later"),
        ("NVIDIA B200, 580.95.05, 10.0, 183359", 0, "B200 has compute capability 10.0; this ONNX Runtime has code for"),
        ("No devices were found", 6, "nvidia-smi ended with 6: No devices were found"),
        ("something else", 0, "cannot parse this line of nvidia-smi: 'something else'"),
    ],
)
def test_what_cannot_be_used_is_named(pretend: Callable[..., None], line: str, code: int, message: str) -> None:
    pretend(line, code)
    with pytest.raises(NoGpuError, match=message):
        find_gpu(0)


def test_tensorrt_10_is_linked_and_nothing_else_is_taken_for_it(tmp_path: Path) -> None:
    script = cli.REPOSITORY / "export/link_tensorrt"
    found, into = tmp_path / "TensorRT/lib", tmp_path / "into"
    found.mkdir(parents=True)
    into.mkdir()
    for name in ("libnvinfer.so.11", "libnvonnxparser.so.11", "libcublas.so.13"):
        (found / name).touch()

    def link() -> subprocess.CompletedProcess[str]:
        return subprocess.run([script, found.parent, into], capture_output=True, text=True, check=False)

    refused = link()
    assert refused.returncode == 1
    assert "has no libnvinfer.so.10; ONNX Runtime needs TensorRT 10" in refused.stderr
    wanted = ["libnvinfer.so.10", "libnvinfer_builder_resource_sm90.so.10.16.1", "libnvonnxparser.so.10"]
    for name in wanted:
        (found / name).touch()
    assert link().returncode == 0
    assert sorted(path.name for path in into.iterdir()) == wanted
    assert (into / wanted[0]).resolve() == found / wanted[0]


def test_both_builds_of_onnxruntime_are_of_one_version() -> None:
    pinned = [(cli.REPOSITORY / "export" / name).read_text() for name in ("onnxruntime.lock", "onnxruntime-gpu.lock")]
    [[cpu], [gpu]] = (re.findall(r"^onnxruntime(?:-gpu)?==(\S+)", text, re.MULTILINE) for text in pinned)
    assert cpu == gpu


def python(folder: Path, script: str, **environment: str) -> Command:
    return Command((sys.executable, "-c", script), folder, environment)


def run(tmp_path: Path, *listed: Stage, no_gpu: str = "", timeout_s: float = 60) -> tuple[bool, list[Json]]:
    all_well = Runner(tmp_path / "out", {}, no_gpu, timeout_s).run(listed, {})
    return all_well, results(tmp_path / "out")["stages"]


def test_a_failure_is_kept_with_its_log_and_the_next_stage_runs(tmp_path: Path) -> None:
    bad = Stage("bad", "", (python(tmp_path, "print('why'); exit(3)"), python(tmp_path, "print('never')")))
    good = Stage("good", "", (python(tmp_path, "import os; print(os.environ['X'])", X="seen"),))
    all_well, [first, second] = run(tmp_path, bad, good)
    assert not all_well
    assert (first["status"], first["reason"]) == (FAILED, "ended with 3: why")
    assert first["log_tail"][-1] == "why"
    assert (second["status"], second["log_tail"][-1]) == (PASSED, "seen")
    assert (tmp_path / "out" / "bad.log").exists()


def test_a_tolerated_exit_code_is_a_result(tmp_path: Path) -> None:
    stage = Stage("verify", "", (python(tmp_path, "exit(1)"),), tolerated={1: "random weights"})
    all_well, [outcome] = run(tmp_path, stage)
    assert all_well
    assert (outcome["status"], outcome["reason"]) == (PASSED, "random weights")


def test_a_stage_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    stage = Stage("slow", "", (python(tmp_path, "import time; time.sleep(60)"),))
    _, [outcome] = run(tmp_path, stage, timeout_s=0.2)
    assert (outcome["status"], outcome["seconds"] < 30) == (FAILED, True)
    assert outcome["reason"] == "took longer than 0 minutes"


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    _, [outcome] = run(tmp_path, Stage("gone", "", (Command(("no-such-program",), tmp_path),)))
    assert outcome["reason"] == "no-such-program cannot be started: No such file or directory"


def test_what_was_not_made_is_a_skip_and_what_was_not_installed_a_failure(tmp_path: Path) -> None:
    skipped = Stage("a", "", needs=(Need(tmp_path / "bundle", "no bundle"),))
    failed = Stage("b", "", needs=(Need(tmp_path / "python", "no .venv-gpu: make venv-gpu", is_fault=True),))
    _, [first, second] = run(tmp_path, skipped, failed)
    assert (first["status"], first["reason"]) == (SKIPPED, "no bundle")
    assert (second["status"], second["reason"]) == (FAILED, "no .venv-gpu: make venv-gpu")


def test_the_search_path_is_put_before_what_is_searched_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = "import os; print(os.environ['LD_LIBRARY_PATH'])"
    stage = Stage("path", "", (python(tmp_path, show, LD_LIBRARY_PATH="/ours:$LD_LIBRARY_PATH"),))
    for before, after in (("/theirs", "/ours:/theirs"), ("", "/ours")):
        monkeypatch.setenv("LD_LIBRARY_PATH", before)
        _, [outcome] = run(tmp_path, stage)
        assert outcome["log_tail"][-1] == after


def test_tensorrt_is_skipped_with_the_remedy_where_it_is_not_linked(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path / "work", tmp_path / "out", quick=True)
    python_there = places.python
    python_there.parent.mkdir(parents=True)
    python_there.touch()
    [verify] = [stage for stage in stages(places) if stage.name == "verify-tiny-tensorrt-fp16"]
    _, [outcome] = run(tmp_path, verify)
    assert (outcome["status"], outcome["reason"]) == (
        SKIPPED,
        "TensorRT is not there: make onnxruntime-gpu TENSORRT_DIR=…",
    )


def test_random_weights_may_miss_limits_and_trained_ones_may_not(tmp_path: Path) -> None:
    def tolerated(checkpoint: Path | None) -> dict[str, set[int]]:
        places = Places(tmp_path, tmp_path, tmp_path, checkpoint=checkpoint)
        return {stage.name: set(stage.tolerated) for stage in stages(places) if stage.name.startswith("verify-")}

    synthetic = tolerated(None)
    assert (synthetic["verify-full-cuda-int8"], synthetic["verify-tiny-cuda-int8"]) == ({1}, set())
    assert not any(tolerated(tmp_path / "real").values())
