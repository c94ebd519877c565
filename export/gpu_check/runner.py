"""Runs stages one after another, each with its own log, and saves the results after every stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gpu_check.machine import Gpu
    from gpu_check.stages import Command, Stage

Json = dict[str, Any]

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
TAIL_LINES = 40


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage."""

    stage: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    commands: tuple[str, ...] = ()
    log_tail: tuple[str, ...] = ()


class Runner:
    """Runs stages. `no_gpu` is the reason why no GPU can be used, or empty; `document` goes into results.json."""

    def __init__(self, results: Path, document: Json, no_gpu: str, timeout_s: float) -> None:
        self.results = results
        self.document = document
        self.no_gpu = no_gpu
        self.timeout_s = timeout_s
        self.outcomes: list[Outcome] = []

    def run(self, stages: Sequence[Stage], left_out: dict[str, str]) -> bool:
        """Runs all stages except those left out (name -> reason), and returns whether none failed."""
        self.results.mkdir(parents=True, exist_ok=True)
        for stage in stages:
            print(f"{stage.name}: {stage.title}", flush=True)
            reason = left_out.get(stage.name)
            outcome = Outcome(stage.name, SKIPPED, reason) if reason else self._stage(stage)
            self.outcomes.append(outcome)
            self._save()
            because = f" ({outcome.reason})" if outcome.reason else ""
            print(f"  {outcome.status}{because}, {outcome.seconds:.0f} s", flush=True)
        return not any(outcome.status == FAILED for outcome in self.outcomes)

    def _stage(self, stage: Stage) -> Outcome:
        if stage.needs_gpu and self.no_gpu:
            return Outcome(stage.name, FAILED, self.no_gpu)
        for need in stage.needs:
            if not need.path.exists():
                return Outcome(stage.name, FAILED if need.is_fault else SKIPPED, need.otherwise)
        started, log = time.monotonic(), self.results / f"{stage.name}.log"
        status, reason = PASSED, ""
        with log.open("w", encoding="utf-8") as file:
            for command in stage.commands:
                code, said = self._command(command, file)
                if code in stage.tolerated:
                    reason = stage.tolerated[code]
                elif code != 0 or said:
                    status, reason = FAILED, said or f"ended with {code}"
                    break
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        if status == FAILED and not tail[-1].startswith("$ "):
            reason += f": {tail[-1]}"
        commands = tuple(command.line() for command in stage.commands)
        return Outcome(stage.name, status, reason, round(time.monotonic() - started, 1), commands, tuple(tail))

    def _command(self, command: Command, log: IO[str]) -> tuple[int, str]:
        """Runs a command, and returns its exit code, or the reason why there is none."""
        print(f"$ {command.line()}", file=log, flush=True)
        searched = os.environ.get("LD_LIBRARY_PATH", "")
        added = {
            name: value.replace("$LD_LIBRARY_PATH", searched).rstrip(":") for name, value in command.environment.items()
        }
        try:
            process = subprocess.Popen(
                command.words,
                cwd=command.folder,
                env=os.environ | added,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that whatever it started ends with it
            )
        except OSError as error:
            return 1, f"{command.words[0]} cannot be started: {error.strerror}"
        try:
            return process.wait(self.timeout_s), ""
        except subprocess.TimeoutExpired:
            return 1, f"took longer than {self.timeout_s / 60:.0f} minutes"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _save(self) -> None:
        document = self.document | {"stages": [asdict(outcome) for outcome in self.outcomes]}
        (self.results / "results.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def described(gpu: Gpu | None, no_gpu: str) -> Json:
    """The GPU for results.json."""
    return {"gpu": asdict(gpu)} if gpu else {"gpu": None, "why": no_gpu}
