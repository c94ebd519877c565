"""The order of a comparison: every contender in turn, each round another one first, and all saved after every run."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compare.cases import CaseKind, Manner, cases_of_round
from compare.contenders import prepare
from compare.errors import CompareError
from compare.processes import busy_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compare.contenders import Contender, Place
    from compare.results import Results

Json = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is run."""

    contenders: Sequence[Contender]
    kinds: Sequence[CaseKind]
    slow: frozenset[str]  # names of contenders that run the quick cases only
    rounds: int
    repeats: int
    minutes: float | None

    def order(self, round_number: int) -> list[Contender]:
        """Rotated, so that nobody is always first, or always behind the same one."""
        start = round_number % len(self.contenders)
        return [*self.contenders[start:], *self.contenders[:start]]

    def kinds_of(self, contender: Contender) -> list[CaseKind]:
        """A slow contender need not run everything."""
        return [kind for kind in self.kinds if kind.is_quick or contender.name not in self.slow]

    def repeats_of(self, contender: Contender) -> int:
        """A slow contender's request takes so long that one a round is enough."""
        return 1 if contender.name in self.slow else self.repeats


def run_rounds(
    plan: Plan, place: Place, results: Results, path: Path, before_round: Callable[[], None] = lambda: None
) -> list[str]:
    """Runs what the results do not have yet; ends early when `plan.minutes` would not be kept.

    `before_round` is called while no contender runs. A contender that fails is left out from then on, so that the
    others are measured all the same; the names of those that failed are given back.
    """
    start = time.monotonic()
    failed: list[str] = []
    begun = -1
    todo = [(number, contender) for number in range(plan.rounds) for contender in plan.order(number)]
    todo = [(number, contender) for number, contender in todo if not results.is_done(number, contender.name)]
    for done, (number, contender) in enumerate(todo):
        elapsed = time.monotonic() - start
        if plan.minutes is not None and elapsed + _expected_s(results, contender.name) > plan.minutes * 60:
            _say(f"stopped before round {number + 1}, {contender.name}: --minutes {plan.minutes:g} would not be kept")
            break
        if contender.name in failed:
            continue
        if number > begun:
            begun = number
            _say("measuring what this machine can do")
            before_round()
        _say(f"round {number + 1} of {plan.rounds}, {contender.name}{_left(results, todo[done:])}")
        try:
            results.document["runs"].append(_run(plan, number, contender, place, results))
        except CompareError as error:
            _say(f"  {contender.name} failed: {error}")
            failed.append(contender.name)
        results.write(path)
    return failed


def _run(plan: Plan, number: int, contender: Contender, place: Place, results: Results) -> Json:
    begun = time.monotonic()
    results.document["contenders"][contender.name]["disk_bytes"] = prepare(contender)
    busy, own, clock = busy_seconds(), _own_seconds(), time.monotonic()
    running = contender.start(place)
    measurements = []
    try:
        for case in cases_of_round(number, plan.kinds_of(contender), plan.repeats_of(contender)):
            for batch in _batches(case.kind, contender, results):
                measurement = running.measure(case, batch)
                times = ", ".join(f"{seconds:.3f}" for seconds in measurement.seconds)
                _say(f"  {case.kind.title}{f', static batch of {batch}' if measurement.batch else ''}: {times} s")
                measurements.append(asdict(measurement))
    finally:
        usage = running.stop()
    elapsed = time.monotonic() - clock
    others = busy_seconds() - busy - (_own_seconds() - own) - (usage.cpu_s or 0)
    results.document["contenders"][contender.name]["versions"] = running.versions
    return {
        "round": number,
        "contender": contender.name,
        "start_s": running.start_s,
        "first_answer_s": running.first_answer_s,
        **asdict(usage),
        "cores_used_by_others": max(0.0, others) / elapsed,
        "took_s": time.monotonic() - begun,
        "measurements": measurements,
    }


def _batches(kind: CaseKind, contender: Contender, results: Results) -> Sequence[int]:
    """All sizes of static batch at first, then the best of them; caches and queues need none."""
    if contender.has_caches or kind.manner is not Manner.TOGETHER:
        return (1,)
    best = results.best_batch(contender.name, kind.name)
    return (best,) if best else kind.batches


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _expected_s(results: Results, contender: str) -> float:
    """As long as the last time, for which all sizes of batch may have been tried; 0 if there was none."""
    runs = results.runs(contender)
    return runs[-1]["took_s"] if runs else 0.0


def _left(results: Results, todo: Sequence[tuple[int, Contender]]) -> str:
    expected = [_expected_s(results, contender.name) for _, contender in todo]
    known = [seconds for seconds in expected if seconds]
    if not known:
        return ""
    # Contenders that have not run yet count as the mean of those that have.
    minutes = sum(known) / len(known) * len(expected) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ""


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
