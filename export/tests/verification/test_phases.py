"""Progress lines with the time left, and what a phase cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blip2_export.verification import memory
from blip2_export.verification.memory import SAMPLE_SECONDS, PeakMemory, anonymous_bytes, available_bytes, release
from blip2_export.verification.phases import Phases

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTE = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_phase_says_how_much_is_done_and_how_long_the_rest_takes() -> None:
    clock, lines = Clock(), []
    phases = Phases(lines.append, clock)
    with phases.phase("decoder"):
        for _ in phases.each(range(30), "cases"):
            clock.now += 4
    assert lines[:3] == [
        "decoder",
        "decoder: 3 of 30 cases, 1 min 48 s left",
        "decoder: 6 of 30 cases, 1 min 36 s left",
    ]
    assert (phases.done[0].name, phases.done[0].seconds) == ("decoder", 120)


def test_a_short_phase_is_one_line() -> None:
    lines: list[str] = []
    phases = Phases(lines.append, Clock())
    with phases.phase("decoder"):
        assert list(phases.each([1, 2, 3], "cases")) == [1, 2, 3]
    assert lines == ["decoder"]


def test_the_peak_is_seen_after_the_memory_is_gone() -> None:
    before = anonymous_bytes()
    if before is None:
        pytest.skip("this system does not say what a process holds")
    with PeakMemory() as peak:
        block = np.ones(25 * MEGABYTE)
        time.sleep(5 * SAMPLE_SECONDS)
        del block
        release()
        after = anonymous_bytes()
    assert peak.bytes - before > 150 * MEGABYTE
    assert after - before < 50 * MEGABYTE


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = anonymous_bytes()
    if held is None:
        pytest.skip("this system does not say what a process holds")
    limit, none = tmp_path / "memory.max", tmp_path / "unlimited"
    limit.write_text(f"{held + 100 * MEGABYTE}\n")
    none.write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (str(none), str(tmp_path / "absent")))
    free = available_bytes()
    monkeypatch.setattr(memory, "LIMITS", (str(none), str(limit)))
    assert 0 < available_bytes() < 110 * MEGABYTE < free
