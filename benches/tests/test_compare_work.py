"""Floors: operations against what the design counts by hand, and how they follow from rates."""

from __future__ import annotations

import pytest
from compare.cases import Ask, Manner
from compare.work import Floors, Row, Work, case_floor_s

from blip2_export.checkpoint.config import parse_config
from blip2_export.synthetic.checkpoint import BLIP2_OPT_2_7B

WORK = Work.of(parse_config(BLIP2_OPT_2_7B))
RATES = {"bandwidth": 38e9, "int8": 1.05e12, "fp32": 0.15e12, "bf16": 0.6e12}
ALL = ("vision_encoder", "qformer", "decoder")


def floors(decoder: str, vision_encoder: str = "int8") -> Floors:
    return Floors(WORK, {"vision_encoder": vision_encoder, "qformer": "fp32", "decoder": decoder}, RATES)


def test_operations_are_those_of_the_design() -> None:
    assert WORK.vision_encoder.products == pytest.approx(506e9, rel=0.01)
    assert 45 * WORK.decoder_position.products == pytest.approx(234e9, rel=0.04)  # the design counts every output


def test_a_decode_step_reads_all_weights_once() -> None:
    # 2.65 GB at 38 GB/s, and keys and values beside them.
    assert floors("int8").step_s([50]) == pytest.approx(0.070, rel=0.03)
    assert 0.037 < floors("int4").step_s([50]) < 0.047
    assert floors("fp32").step_s([50]) == pytest.approx(4 * floors("int8").step_s([50]), rel=0.01)


def test_many_rows_share_the_weights_until_arithmetic_takes_longer() -> None:
    int8 = floors("int8")
    assert int8.step_s([50] * 8) < 1.2 * int8.step_s([50])
    slow = Floors(WORK, int8.precisions, {**RATES, "int8": 0.1e12})
    assert slow.step_s([50] * 8) == pytest.approx(8 * slow.step_s([50]), rel=0.5)


def test_a_request_is_the_sum_of_its_stages() -> None:
    int8 = floors("int8")
    stages = int8.encode_s() + int8.qformer_s() + int8.prefill_s([45])
    assert int8.request_s([Row(0, 13, 1)]) == pytest.approx(stages)
    assert int8.request_s([Row(0, 13, 2)]) == pytest.approx(stages + int8.step_s([46]))


def test_a_known_picture_costs_its_text_only() -> None:
    int8 = floors("int8")
    known = int8.request_s([Row(0, 13, 1)], picture_is_known=True)
    assert known == pytest.approx(int8.prefill_s([13], behind=32))
    assert known < int8.request_s([Row(0, 13, 1)]) - int8.encode_s()


def test_questions_about_one_picture_encode_it_once() -> None:
    int8 = floors("int8")
    one = int8.request_s([Row(0, 13, 17)] * 10)
    many = int8.request_s([Row(number, 13, 17) for number in range(10)])
    assert many - one > 9 * int8.encode_s()


def test_rows_that_end_early_cost_no_further_steps() -> None:
    bf16 = floors("bf16", "bf16")
    mixed = bf16.request_s([Row(0, 13, 4), Row(1, 13, 32)])
    longest = bf16.request_s([Row(0, 13, 32), Row(1, 13, 32)])
    assert mixed < longest


def test_more_rows_than_slots_come_one_after_the_other() -> None:
    int8 = floors("int8")
    rows = [Row(number, 13, 17) for number in range(32)]
    assert int8.request_s(rows) == pytest.approx(2 * int8.request_s(rows[:16]))


def test_a_streamed_case_ends_at_its_first_token() -> None:
    int8, asks, lengths = floors("int8"), [Ask(1, "a", 17)], {"a": 13}
    first = case_floor_s(int8, Manner.STREAMED, asks, lengths)
    assert first == pytest.approx(int8.request_s([Row(1, 13, 1)]))
    assert first < case_floor_s(int8, Manner.ALONE, asks, lengths)
