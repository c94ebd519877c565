"""What the design asks for, and whether a run kept it.

The rival in a type is the fastest of all its forms, compiled or not, case by case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.spread import Spread, ratios

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from compare.results import Results

BF16, FP32 = "transformers bf16", "transformers fp32"
# Case, type of the rival, and how many times faster at least.
SPEED_TARGETS = (
    ("one-17", BF16, 1.8),
    ("one-17", FP32, 6.0),
    ("repeated", BF16, 4.0),
    ("at-once-8", BF16, 2.0),
)
SPEED_CONTENDERS = ("blip2 int8", "blip2 int4")
GPU_SPEED_TARGETS = (("one-17", "transformers fp16", 3.0),)
GPU_FLOOR_TIMES = 1.5  # at most so many times the floor, which is reading the weights once a token
START_S = 8.0
MEMORY_BYTES = {"blip2 int8": 5.5e9, "blip2 int4": 4.5e9}
OVERHEAD = 0.01  # of a request
ALONE = "one-17"


@dataclass(frozen=True)
class Verdict:
    """One target of one contender."""

    contender: str
    what: str
    target: str
    measured: str
    is_met: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """Of everything that the run measured; what it left out is left out."""
    if results.document.get("device") == "cuda":
        for contender in (name for name in results.contenders if name.startswith("blip2")):
            yield from _speed(results, contender, GPU_SPEED_TARGETS)
            yield from _near_floor(results, contender)
        return
    for contender in SPEED_CONTENDERS:
        if contender in results.contenders:
            yield from _speed(results, contender, SPEED_TARGETS)
            yield from _resources(results, contender)


def overhead(results: Results, contender: str, stage: str | None = None) -> Spread | None:
    """The share of a request alone that goes to a stage, or, without one, to what no stage accounts for: HTTP."""
    shares = []
    for stages in results.stages(contender, ALONE):
        wall = stages["wall"]
        told = sum(ms for name, ms in stages.items() if name != "wall")
        shares.append((stages.get(stage, 0.0) if stage else wall - told) / wall)
    return Spread.of(shares)


def _near_floor(results: Results, contender: str) -> Iterator[Verdict]:
    spread, floor = results.spread(contender, ALONE), results.floor(contender, ALONE)
    if spread and floor:
        times = spread.median / floor
        most = f"≤ {GPU_FLOOR_TIMES:g} times"
        what = f"{results.cases[ALONE]['title']}, against the floor"
        yield Verdict(contender, what, most, f"{times:.2f} times", times <= GPU_FLOOR_TIMES)


def _speed(results: Results, contender: str, targets: Iterable[tuple[str, str, float]]) -> Iterator[Verdict]:
    for case, rival_type, least in targets:
        rival = _fastest(results, rival_type, case)
        if rival is None:
            continue
        times = ratios(results.round_medians(rival, case), results.round_medians(contender, case))
        if times:
            what = f"{results.cases[case]['title']}, against {rival}"
            measured = f"{times.median:.2f} times ({times.least:.2f} to {times.most:.2f})"
            yield Verdict(contender, what, f"≥ {least:g} times", measured, times.median >= least)


def _fastest(results: Results, rival_type: str, case: str) -> str | None:
    """Of `transformers bf16`, `transformers bf16+compile` and so on, the one with the least median."""
    forms = [name for name in results.contenders if name.partition("+")[0] == rival_type]
    medians = {name: spread.median for name in forms if (spread := results.spread(name, case))}
    return min(medians, key=medians.get, default=None)


def _resources(results: Results, contender: str) -> Iterator[Verdict]:
    if start := results.of_runs(contender, "start_s"):
        yield Verdict(contender, "start to ready", f"< {START_S:g} s", f"{start.median:.1f} s", start.median < START_S)
    if peak := results.of_runs(contender, "resident"):
        most = MEMORY_BYTES[contender]
        yield Verdict(contender, "peak memory", f"< {most / 1e9:g} GB", f"{peak.most / 1e9:.2f} GB", peak.most < most)
    http, preprocess = overhead(results, contender), overhead(results, contender, "preprocess")
    if http and preprocess:
        both = http.median + preprocess.median
        measured = f"{both:.2%}, of it preprocessing {preprocess.median:.2%}"
        yield Verdict(contender, "preprocessing and HTTP", f"< {OVERHEAD:.0%} of a request", measured, both < OVERHEAD)
