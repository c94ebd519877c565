"""Who is measured: a precision of transformers, or a bundle served by `blip2`. Each is a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compare import server_client
from compare.cases import FIRST_QUESTION, Ask, Manner, question, static_batches
from compare.errors import CompareError
from compare.pictures import write_picture
from compare.processes import Usage, UsageWatch, end, read_through

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compare.cases import Case

Json = dict[str, Any]

HOST = "127.0.0.1"
SLOTS = 16
START_TIMEOUT_S = 300
POLL_S = 0.05
WARM_UP_SEED = 10**9  # a picture that no case has
PACKAGE_PARENT = Path(__file__).resolve().parent.parent
DTYPES = ("fp32", "bf16", "fp16")
QUANTIZATIONS = ("int8-weights", "int8-dynamic")


@dataclass(frozen=True)
class Place:
    """Where a run happens: shared by all contenders."""

    pictures: Path
    logs: Path
    threads: int
    device: str = "cpu"


@dataclass
class Measurement:
    """The passes of one case. `batch` is the size of static batch, where that was a choice."""

    case: str
    seconds: list[float]
    batch: int | None = None
    stages: list[Json] = field(default_factory=list)  # ms, of each pass with one row, where the contender tells them


class Running(Protocol):
    """A contender that has been started."""

    start_s: float  # from the start of its process until it can answer
    first_answer_s: float  # the first request of all, which nobody counts
    versions: dict[str, str]

    def measure(self, case: Case, batch: int) -> Measurement:
        """Times all passes of a case."""

    def stop(self) -> Usage:
        """Ends the process, and says what it held at most."""


class Contender(Protocol):
    """What can be started."""

    name: str
    precisions: dict[str, str]
    has_caches: bool  # whether static batches are its only way to answer rows together

    @property
    def folder(self) -> Path:
        """What must lie on the disk."""

    def start(self, place: Place) -> Running:
        """Starts a process and waits until it can answer."""


@dataclass(frozen=True)
class TransformersContender:
    """`bf16`, `fp32+compile`, `bf16+int8-weights`: a type, and what is done to the model."""

    spec: str
    folder: Path
    has_caches = False

    def __post_init__(self) -> None:
        dtype, *extras = self.spec.split("+")
        known = {"compile", *QUANTIZATIONS}
        if dtype not in DTYPES or not known.issuperset(extras) or len(set(extras) & set(QUANTIZATIONS)) > 1:
            raise CompareError(f"{self.spec!r}: not one of {', '.join(DTYPES)} with +{', +'.join(sorted(known))}")

    @property
    def name(self) -> str:
        return f"transformers {self.spec}"

    @property
    def precisions(self) -> dict[str, str]:
        dtype, *extras = self.spec.split("+")
        linear = "int8" if set(extras) & set(QUANTIZATIONS) else dtype
        # transformers keeps the Q-Former in f32 whatever is asked for.
        return {"vision_encoder": linear, "qformer": "fp32", "decoder": linear}

    def start(self, place: Place) -> Running:
        dtype, *extras = self.spec.split("+")
        arguments = ["--checkpoint", str(self.folder), "--dtype", dtype, "--device", place.device]
        arguments += ["--threads", str(place.threads), *(["--compile"] if "compile" in extras else [])]
        arguments += [word for extra in extras if extra in QUANTIZATIONS for word in ("--quantize", extra)]
        return _RunningTransformers(arguments, place, _log_name(self.name))


@dataclass(frozen=True)
class BundleContender:
    """A bundle and the binary that serves it."""

    folder: Path
    binary: Path
    ort_library: Path
    provider: str | None = None
    has_caches = True

    @property
    def name(self) -> str:
        target = self.manifest["target"]
        return f"blip2 {self.precisions['decoder']}{'' if target == 'cpu' else f' {target}'}"

    @property
    def precisions(self) -> dict[str, str]:
        return self.manifest["precision"]

    @property
    def manifest(self) -> Json:
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise CompareError(f"{self.folder}: holds no manifest.json; `make bench-compare` exports what is missing")
        return json.loads(path.read_text(encoding="utf-8"))

    def start(self, place: Place) -> Running:
        command = [str(self.binary), "serve", "--model", str(self.folder), "--slots", str(SLOTS)]
        # No golden answer in the middle of a measurement, and none of the waiting requests is overdue, however slow.
        command += ["--threads", str(place.threads), "--golden-interval-s", "0", "--timeout-s", "900"]
        command += ["--provider", self.provider] if self.provider else []
        return _RunningServer(command, self.ort_library, place, _log_name(self.name))


class _RunningTransformers:
    """The worker at the other end of two pipes."""

    def __init__(self, arguments: list[str], place: Place, log_name: str) -> None:
        command = [sys.executable, "-m", "compare.transformers_worker", *arguments]
        self._place = place
        start = time.perf_counter()
        with (place.logs / log_name).open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=PACKAGE_PARENT
            )
        self._watch = UsageWatch(self._process.pid, gpu=place.device == "cuda")
        try:
            self.versions = self._read()["versions"]
            self.start_s = time.perf_counter() - start
            self.first_answer_s = self._answer([[_warm_up()]])
        except BaseException:
            self.stop()
            raise

    def measure(self, case: Case, batch: int) -> Measurement:
        """It has no stream and no cache: a first token is an answer of one, a repeated picture is a new one."""
        is_streamed = case.kind.manner is Manner.STREAMED
        seconds = []
        for rows in case.passes:
            asks = [Ask(row.picture, row.text, 1) for row in rows] if is_streamed else rows
            seconds.append(self._answer(static_batches(asks, batch)))
        return Measurement(case.kind.name, seconds, batch if case.kind.rows > 1 else None)

    def stop(self) -> Usage:
        usage = self._watch.stop()
        end(self._process)
        return usage

    def _answer(self, batches: Sequence[Sequence[Ask]]) -> float:
        message = [[self._row(ask) for ask in batch] for batch in batches]
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which reading tells with its exit code
            print(json.dumps({"batches": message}), file=self._process.stdin, flush=True)
        return self._read()["seconds"]

    def _row(self, ask: Ask) -> Json:
        picture = write_picture(self._place.pictures, ask.picture)
        return {"picture": str(picture.resolve()), "text": ask.text, "new_tokens": ask.new_tokens}

    def _read(self) -> Json:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CompareError(f"the transformers worker ended with {self._process.wait()}; see {self._place.logs}")
        return json.loads(line)


class _RunningServer:
    """`blip2 serve`, asked over HTTP: what users get, with what HTTP adds."""

    def __init__(self, command: list[str], ort_library: Path, place: Place, log_name: str) -> None:
        self._place, self._port = place, _free_port()
        command = [*command, "--host", HOST, "--port", str(self._port)]
        environment = {**os.environ, "ORT_DYLIB_PATH": str(ort_library)}
        start = time.perf_counter()
        with (place.logs / log_name).open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, text=True)
        self._watch = UsageWatch(self._process.pid, gpu=place.device == "cuda")
        try:
            self._wait_until_ready(start)
            self.start_s = time.perf_counter() - start
            self.versions = {"blip2": server_client.server_version(HOST, self._port)}
            self.first_answer_s = self._ask(_warm_up()).seconds
        except BaseException:
            self.stop()
            raise

    def measure(self, case: Case, batch: int) -> Measurement:
        """Rows that come together are requests of their own; the service puts them together as it likes."""
        del batch
        measurement = Measurement(case.kind.name, [])
        for rows in case.passes:
            requests = [self._request(ask, streamed=case.kind.manner is Manner.STREAMED) for ask in rows]
            if case.kind.manner is Manner.TOGETHER:
                measurement.seconds.append(server_client.ask_together(HOST, self._port, requests, SLOTS))
                continue
            if case.kind.manner is Manner.REPEATED:
                self._ask(Ask(rows[0].picture, question(FIRST_QUESTION), 1))
            reply = server_client.ask(HOST, self._port, requests[0])
            measurement.seconds.append(reply.seconds)
            if reply.stages_ms:
                measurement.stages.append(reply.stages_ms)
        return measurement

    def stop(self) -> Usage:
        usage = self._watch.stop()
        end(self._process)
        return usage

    def _ask(self, ask: Ask) -> server_client.Reply:
        return server_client.ask(HOST, self._port, self._request(ask, streamed=False))

    def _request(self, ask: Ask, *, streamed: bool) -> server_client.Request:
        picture = write_picture(self._place.pictures, ask.picture).read_bytes()
        return server_client.Request.make(picture, ask.text, ask.new_tokens, streamed=streamed)

    def _wait_until_ready(self, start: float) -> None:
        while time.perf_counter() - start < START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise CompareError(f"blip2 serve ended with {self._process.returncode}; see {self._place.logs}")
            connection = HTTPConnection(HOST, self._port, timeout=5)
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass  # it does not listen yet
            finally:
                connection.close()
            time.sleep(POLL_S)
        raise CompareError(f"blip2 serve was not ready after {START_TIMEOUT_S} s; see {self._place.logs}")


def prepare(contender: Contender) -> int:
    """Reads its files once, so that no start waits for a disk; their bytes."""
    return read_through(contender.folder)


def _warm_up() -> Ask:
    return Ask(WARM_UP_SEED, question(FIRST_QUESTION), 3)


def _log_name(name: str) -> str:
    return name.replace(" ", "-") + ".log"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]
