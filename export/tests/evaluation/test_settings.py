"""Templates and parameters, and arguments of `evaluate` that cannot be used."""

from __future__ import annotations

import pytest

from blip2_export.cli import main
from blip2_export.evaluation.settings import choose_settings


def test_presets_are_the_published_settings_and_can_be_changed() -> None:
    paper = choose_settings("vqa", "paper", None, None)
    assert paper.prompt("What is it?") == "Question: What is it? Answer:"
    assert (paper.params["num_beams"], paper.params["length_penalty"]) == (5, -1)
    lavis = choose_settings("vqa", "lavis", None, {"num_beams": 1})
    assert lavis.prompt('Is "it" (a) Dog?') == "Question: is it a dog? Short answer:"
    assert lavis.prompt("w " * 60) == f"Question: {' '.join(['w'] * 50)} Short answer:"
    assert lavis.params == {"num_beams": 1, "length_penalty": 0, "max_new_tokens": 10, "min_new_tokens": 1}
    assert choose_settings("vqa", None, None, None).params == {}
    assert choose_settings("vqa", None, None, None).prompt("{} {0}?") == "Question: {} {0}? Answer:"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--template", "Question"], "--template 'Question' has no place {} for the question"),
        (["--image-name", "{:012}{}.jpg"], "--image-name '{:012}{}.jpg' does not fit image_id 0"),
        (["--output", "/nowhere/at/all"], "/nowhere/at/all: No such file or directory; --output must name"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    vqa: list[str], changed: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*vqa, *changed]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed", [["--params", "["], ["--params", "3"], ["--limit", "0"], ["--timeout", "0"], ["--task", "chat"]]
)
def test_usage_errors_are_exit_code_2(vqa: list[str], changed: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*vqa, *changed])
    assert ended.value.code == 2
