"""The choice and the files of golden answers."""

from __future__ import annotations

import json
from pathlib import Path

from blip2_export.verification.cases import Case
from blip2_export.verification.golden import SMALLEST_MARGIN, Answer, choose, golden_files


def answer(number: int, *, image: str = "a.png", text: str = "", **changes: float | bool) -> Answer:
    values = {"margin": 1.0, "equals_reference": True, **changes}
    return Answer(Case(f"case-{number}", Path(image), text, 5), [2], [7], "x", **values)


def test_golden_answers_are_safe_and_spread_over_images_and_prompts() -> None:
    answers = [
        answer(1, margin=9.0),
        answer(2, margin=8.0),
        answer(3, image="b.png", text="q", margin=0.5),
        answer(4, image="c.png", margin=SMALLEST_MARGIN / 2),
        answer(5, image="d.png", equals_reference=False),
    ]
    assert [chosen.case.name for chosen in choose(answers, 2)] == ["case-1", "case-3"]
    assert [chosen.case.name for chosen in choose(answers, 9)] == ["case-1", "case-3", "case-2"]


def test_different_images_of_one_name_are_both_kept(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(folder.encode())
    chosen = [answer(1, image=str(tmp_path / "x/a.png")), answer(2, image=str(tmp_path / "y/a.png"))]
    files = golden_files(chosen, "reference")
    cases = json.loads(files["golden/cases.json"])["cases"]
    assert [files[f"golden/{case['image']}"] for case in cases] == [b"x", b"y"]
    assert set(cases[0]) == {
        "name", "image", "text", "max_new_tokens", "prompt_ids", "token_ids", "answer"
    }  # fmt: skip
