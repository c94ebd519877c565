"""Statistics, the record, and the page that is drawn from it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from compare.charts import Group, bar_chart
from compare.cli import main
from compare.errors import CompareError
from compare.page import charts, page
from compare.results import VERSION, Results
from compare.spread import Spread, ratios
from compare.targets import overhead, verdicts

RECORDED = Path(__file__).with_name("recorded.json")


@pytest.fixture
def recorded() -> Results:
    return Results.read(RECORDED)


def measurement(case: str, seconds: list[float], batch: int | None = None, stages: list | None = None) -> dict:
    return {"case": case, "seconds": seconds, "batch": batch, "stages": stages or []}


def made_up() -> Results:
    """Two rounds: the second is twice as slow for all, so quotients stay while times do not."""

    def run(number: int, contender: str, measurements: list) -> dict:
        usage = {"start_s": 5.0, "resident": 5e9, "cores_used_by_others": 0.0}
        return {"round": number, "contender": contender, "measurements": measurements, **usage}

    runs = []
    for number, drift in ((0, 1.0), (1, 2.0)):
        batches = [measurement("ten", [20.0 * drift], 10), measurement("ten", [30.0 * drift], 1)][: 2 - number]
        runs.append(run(number, "transformers bf16", [measurement("one-17", [3 * drift, 3.2 * drift]), *batches]))
        stages = [{"preprocess": 10.0 * drift, "decode": 985.0 * drift}]
        alone = measurement("one-17", [1.0 * drift], stages=stages)
        runs.append(run(number, "blip2 int8", [alone, measurement("ten", [4 * drift])]))
    cases = {
        "one-17": {"title": "one request", "manner": "alone", "rows": 1, "new_tokens": 17},
        "ten": {"title": "ten questions", "manner": "together", "rows": 10, "new_tokens": 170},
    }
    document = {"version": VERSION, "cases": cases, "runs": runs, "floors": {}}
    return Results({**document, "contenders": {"transformers bf16": {}, "blip2 int8": {}}})


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 9.0]) == Spread(2.5, 1.0, 9.0)
    assert Spread.of([]) is None


def test_ratios_compare_within_a_round() -> None:
    assert ratios({0: 3.0, 1: 6.0, 2: 1.0}, {0: 1.0, 1: 2.0, 3: 5.0}) == Spread(3.0, 3.0, 3.0)
    assert ratios({0: 3.0}, {1: 1.0}) is None


def test_drift_between_rounds_leaves_ratios_alone() -> None:
    results = made_up()
    both = (results.round_medians(name, "one-17") for name in ("transformers bf16", "blip2 int8"))
    assert ratios(*both) == Spread(3.1, 3.1, 3.1)


def test_the_best_static_batch_counts() -> None:
    results = made_up()
    assert results.best_batch("transformers bf16", "ten") == 10
    assert results.seconds("transformers bf16", "ten") == [20.0, 40.0]
    assert results.seconds("transformers bf16", "ten", 1) == [30.0]
    assert results.best_batch("blip2 int8", "ten") is None


def test_what_no_stage_accounts_for_is_http() -> None:
    results = made_up()
    assert overhead(results, "blip2 int8").median == pytest.approx(0.005)
    assert overhead(results, "blip2 int8", "preprocess").median == pytest.approx(0.01)
    assert overhead(results, "transformers bf16") is None


def test_targets_are_judged_where_they_were_measured() -> None:
    met = {verdict.what: verdict.is_met for verdict in verdicts(made_up())}
    assert met == {
        "one request, against transformers bf16": True,
        "start to ready": True,
        "peak memory": True,
        "preprocessing and HTTP": False,
    }


def test_a_gpu_has_targets_of_its_own() -> None:
    results = made_up()
    results.document.update({"device": "cuda", "floors": {"blip2 int8": {"cases": {"one-17": 1.2}}}})
    (floor,) = verdicts(results)  # transformers fp16 did not run
    assert (floor.measured, floor.is_met) == ("1.25 times", True)


def test_the_fastest_form_of_a_rival_is_the_one_to_beat() -> None:
    results = made_up()
    results.document["contenders"]["transformers bf16+compile"] = {}
    compiled = {"round": 0, "contender": "transformers bf16+compile", "measurements": [measurement("one-17", [1.5])]}
    results.document["runs"].append(compiled)
    first = next(verdicts(results))
    assert (first.what, first.is_met) == ("one request, against transformers bf16+compile", False)


def test_the_page_has_a_line_for_every_case_and_contender(recorded: Results) -> None:
    text = page(recorded)
    for about in recorded.cases.values():
        for contender in recorded.contenders:
            assert f"| {about['title']} | {contender} | " in text
    assert "None" not in text
    assert "nan" not in text


def test_tables_have_as_many_cells_as_titles(recorded: Results) -> None:
    for table in page(recorded).split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_a_page_can_be_drawn_after_the_first_run(recorded: Results) -> None:
    first = Results({**recorded.document, "runs": recorded.document["runs"][:1]})
    assert "In short" in page(first)


def test_charts_are_svg_and_the_same_every_time(recorded: Results) -> None:
    drawn = charts(recorded)
    assert drawn == charts(recorded)
    for content in drawn.values():
        assert ET.fromstring(content).tag.endswith("svg")


def test_bars_are_in_proportion() -> None:
    chart = bar_chart("t", ["a", "b"], [Group("g", {"a": 1.0, "b": 4.0}), Group("empty", {})])
    bars = [element for element in ET.fromstring(chart).iter() if element.get("height") == "13"]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.01)
    assert "empty" not in chart


def test_render_writes_page_and_charts_beside_the_results(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(RECORDED.read_bytes())
    main(["render", str(path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "README.md")
    assert {file.name for file in tmp_path.iterdir()} >= {"README.md", "latency.svg", "throughput.svg", "resources.svg"}


def test_what_was_written_is_read_again(tmp_path: Path, recorded: Results) -> None:
    recorded.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == recorded


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"version": 0}), encoding="utf-8")
    with pytest.raises(CompareError, match="measure anew"):
        Results.read(path)
