"""What is told about long work."""

from __future__ import annotations

import io

import pytest

from blip2_export.progress import ByteProgress, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_for_each_stage_and_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    with ByteProgress(4_000_000_000, stream, clock) as bar:
        bar.stage("vision_encoder int8")
        for _ in range(20):
            clock.now += 1
            bar.advance(100_000_000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("blip2_export: vision_encoder int8") for line in lines)
    assert "25% of 4.00 GB, 30 s left" in lines[1]


def test_the_time_left_follows_the_pace_of_the_stage() -> None:
    stream, clock = io.StringIO(), Clock()
    bar = ByteProgress(1000, stream, clock)
    bar.stage("fast")
    clock.now = 1
    bar.advance(500)
    bar.stage("slow")
    clock.now = 101
    bar.advance(100)
    assert stream.getvalue().splitlines()[-1].endswith("60% of 0.0 MB, 6 min 40 s left")


def test_a_terminal_has_one_line_that_is_drawn_over() -> None:
    stream, clock = Terminal(), Clock()
    with ByteProgress(10, stream, clock) as bar:
        bar.stage("decoder int4")
        clock.now = 0.1
        bar.advance(1)
        clock.now = 2
        bar.advance(1)
    drawn = stream.getvalue()
    assert drawn.count("\n") == 1
    assert [line.startswith("decoder int4") for line in drawn.split("\r")[1:]] == [True, True]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (3600, "60 min 00 s")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
