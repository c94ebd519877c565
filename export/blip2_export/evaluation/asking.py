"""Asks many rows concurrently and writes each answer as it arrives, with progress on stderr."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blip2_export.errors import ExportError
from blip2_export.evaluation.client import RowRefusedError
from blip2_export.progress import LINE_SECONDS, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.evaluation.client import ScoreClient
    from blip2_export.evaluation.datasets import Sample
    from blip2_export.evaluation.results import Results
    from blip2_export.evaluation.tasks import Task


@dataclass
class Progress:
    """Prints progress at intervals: rows, rate since the start of this run, time left."""

    total: int
    done: int
    every_s: float = LINE_SECONDS

    def __post_init__(self) -> None:
        self._done_before = self.done
        self._started = self._said = time.monotonic()

    def step(self, note: str) -> None:
        """Counts one more row; `note` is appended to the line."""
        self.done += 1
        now = time.monotonic()
        if now - self._said >= self.every_s or self.done == self.total:
            self._said = now
            rate = (self.done - self._done_before) / max(now - self._started, 1e-9)
            left = _duration((self.total - self.done) / rate)
            progress(f"{self.done} of {self.total}, {rate:.1f} a second, {left} left{note}")


def ask(client: ScoreClient, task: Task, samples: Sequence[Sample], results: Results, concurrency: int) -> None:
    """Asks these samples of the task, `concurrency` at a time.

    Raises:
        ExportError: the run cannot continue. The answers so far are in the file.
    """
    so_far = Progress(len(task.samples), len(task.samples) - len(samples))
    pending: dict[Future[str | RowRefusedError], Sample] = {}

    def record_finished() -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            sample = pending.pop(future)
            _record(sample, future.result(), results)
            refused = f", {len(results.errors)} refused" if results.errors else ""
            so_far.step(task.note(sample, results.answers.get(sample.id)) + refused)

    with ThreadPoolExecutor(concurrency) as pool:
        try:
            for sample in samples:
                pending[pool.submit(_answer, client, sample, task.sample_name)] = sample
                if len(pending) == concurrency:
                    record_finished()
            while pending:
                record_finished()
        finally:
            # After a fatal error or Ctrl-C no thread should wait for another try; the pool waits for rows under way.
            client.close()
            pool.shutdown(wait=False, cancel_futures=True)


def _answer(client: ScoreClient, sample: Sample, name: str) -> str | RowRefusedError:
    try:
        return client.answer(sample.image, sample.text)
    except RowRefusedError as refused:
        return refused
    except ExportError as error:
        raise ExportError(f"{name} {sample.id}: {error}") from error


def _record(sample: Sample, outcome: str | RowRefusedError, results: Results) -> None:
    detail = {"image": sample.image.name, "prompt": sample.text}
    if isinstance(outcome, RowRefusedError):
        results.add_error(sample.id, detail, str(outcome))
    else:
        results.add_answer(sample.id, detail, outcome)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
