"""Every alert fires when it should and is silent when it should be, as `promtool test rules` computes it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import queries
import yaml
from prometheus import CONFIGURATION, RULES, tool

if TYPE_CHECKING:
    from pathlib import Path

TARGET = {"job": "blip2", "instance": "pod:5002", "pod": "blip2-1"}
SCORE = {"route": "/score"}


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, a step a minute, and when to look."""

    alert: str
    fires: bool
    series: dict[str, str]
    minute: int
    value: str = ""
    labels: dict[str, str] = field(default_factory=lambda: TARGET)


def series(name: str, **labels: str) -> str:
    """A series of the target."""
    inner = ",".join(f'{key}="{value}"' for key, value in (TARGET | labels).items())
    return f"{name}{{{inner}}}"


UP = series("up")
READY = series("blip2_ready")
WRONG = series("blip2_golden_replays_total", result="failed")
GOOD = series("blip2_http_requests_total", **SCORE, status="2xx")
BAD = series("blip2_http_requests_total", **SCORE, status="5xx")
PROBES = series("blip2_http_requests_total", route="/readyz", status="5xx")
REFUSED = series("blip2_http_requests_total", **SCORE, status="4xx")
FULL = series("blip2_http_refusals_total", reason="overloaded")
WORK, PLACES = series("blip2_rows_in_work"), series("blip2_queue_capacity_rows")
RESIDENT, PLANNED = series("blip2_resident_memory_bytes"), series("blip2_planned_memory_bytes")
FETCHED = series("blip2_image_fetches_total", result="ok")
NO_DNS = series("blip2_image_fetches_total", result="dns")
PRIVATE = series("blip2_image_fetches_total", result="address")


def lasting(fast: int, slow: int) -> dict[str, str]:
    """Requests a minute that take less than 20 s, and from 20 to 40 s."""
    return {
        series("blip2_http_request_duration_seconds_bucket", **SCORE, le="20.0"): f"0+{fast}x30",
        series("blip2_http_request_duration_seconds_bucket", **SCORE, le="40.0"): f"0+{fast + slow}x30",
        series("blip2_http_request_duration_seconds_bucket", **SCORE, le="+Inf"): f"0+{fast + slow}x30",
    }


CASES = [
    Case("Blip2Absent", True, {}, 6, labels={"job": "blip2"}),
    Case("Blip2Absent", False, {UP: "0x10"}, 6),
    Case("Blip2Down", True, {UP: "1x3 0x10"}, 7),
    Case("Blip2Down", False, {UP: "1x3 0 1x10"}, 7),
    Case("Blip2NotReady", True, {READY: "0x10"}, 6),
    Case("Blip2NotReady", False, {READY: "0x3 1x10"}, 6),
    Case("Blip2GoldenAnswerWrong", True, {WRONG: "0x5 1x20"}, 10, labels=TARGET | {"result": "failed"}),
    Case("Blip2GoldenAnswerWrong", False, {WRONG: "7x30"}, 20),
    Case("Blip2ServerErrors", True, {GOOD: "0+98x30", BAD: "0+2x30"}, 15, "2%"),
    Case("Blip2ServerErrors", False, {GOOD: "0+995x30", BAD: "0+5x30"}, 15),
    # Probes of an instance that loads are 503, and no caller was failed.
    Case("Blip2ServerErrors", False, {GOOD: "0+100x30", PROBES: "0+100x30"}, 15),
    Case("Blip2Overloaded", True, {GOOD: "0+90x30", REFUSED: "0+10x30", FULL: "0+10x30"}, 20, "10%"),
    Case("Blip2Overloaded", False, {GOOD: "0+96x30", REFUSED: "0+4x30", FULL: "0+4x30"}, 20),
    Case("Blip2QueueNearlyFull", True, {WORK: "58x20", PLACES: "64x20"}, 12, "90.62%"),
    Case("Blip2QueueNearlyFull", False, {WORK: "58x8 10 58x20", PLACES: "64x30"}, 12),
    Case("Blip2Slow", True, lasting(90, 10), 20, "30s"),
    Case("Blip2Slow", False, lasting(96, 4), 20),
    Case("Blip2MemoryAbovePlan", True, {RESIDENT: "66x20", PLANNED: "60x20"}, 12, "110%"),
    Case("Blip2MemoryAbovePlan", False, {RESIDENT: "60x20", PLANNED: "60x20"}, 12),
    Case("Blip2ImageFetchesFail", True, {FETCHED: "0+2x40", NO_DNS: "0+8x40"}, 25, "80%"),
    Case("Blip2ImageFetchesFail", False, {FETCHED: "0+2x40", NO_DNS: "0+1x40", PRIVATE: "0+9x40"}, 25),
    Case("Blip2Restarts", True, {GOOD: "0+3x8 0+3x8 0+3x8 0+3x20"}, 40, "3"),
    Case("Blip2Restarts", False, {GOOD: "0+3x8 0+3x8 0+3x40"}, 40),
]


def expected(case: Case) -> list[dict[str, Any]]:
    """The alert with its labels, and its texts as they read when it fires."""
    if not case.fires:
        return []
    (rule,) = (rule for rule in queries.alerts() if rule["alert"] == case.alert)
    texts = {}
    for name, text in rule["annotations"].items():
        text = text.replace("{{ $labels.instance }}", TARGET["instance"])
        texts[name] = re.sub(r"\{\{ \$value.*?\}\}", case.value, text)
    return [{"exp_labels": case.labels | rule["labels"], "exp_annotations": texts}]


def run_promtool(case: Case, folder: Path, rules: Path = RULES) -> subprocess.CompletedProcess[str]:
    """Runs promtool on one case."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {"eval_time": f"{case.minute}m", "alertname": case.alert, "exp_alerts": expected(case)},
        ],
    }
    file = folder / "test.yml"
    content = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}
    file.write_text(yaml.safe_dump(content), "utf-8")
    command = [tool("promtool"), "test", "rules", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'silent'}")
def test_an_alert_fires_when_it_should_and_not_otherwise(case: Case, tmp_path: Path) -> None:
    """With labels and texts."""
    done = run_promtool(case, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_of_both_kinds() -> None:
    """None is left out."""
    names = {rule["alert"] for rule in queries.alerts()}
    for fires in (True, False):
        assert {case.alert for case in CASES if case.fires is fires} == names


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'fires' if case.fires else 'silent'}")
def test_a_case_fails_when_its_alert_does_the_opposite(case: Case, tmp_path: Path) -> None:
    """So no case passes by chance."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))
    (rule,) = (rule for group in groups["groups"] for rule in group["rules"] if rule["alert"] == case.alert)
    if case.fires:
        rule["expr"] = f"({rule['expr']}) and on () vector(0) > 0"
    else:
        rule |= {"expr": "vector(1)", "for": "0s"}
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(groups), "utf-8")
    done = run_promtool(case, tmp_path, rules)
    assert done.returncode == 1, done.stdout
    assert case.alert in done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    """As compose mounts them, beside each other."""
    for command in (["config", CONFIGURATION], ["rules", RULES]):
        done = subprocess.run([tool("promtool"), "check", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for: 5m", "for: five"),
        ("expr: up{", "exp: up{"),
        ('{job="blip2"} == 0', '{job="blip2" == 0'),
        ("$labels", "$label"),
    ],
)
def test_promtool_refuses_broken_rules(old: str, new: str, tmp_path: Path) -> None:
    """A duration, a key, an expression, a template."""
    text = RULES.read_text("utf-8")
    assert old in text
    rules = tmp_path / "rules.yml"
    rules.write_text(text.replace(old, new), "utf-8")
    done = subprocess.run([tool("promtool"), "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode != 0, done.stdout


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """A severity of two, and three texts that are sentences."""
    for rule in queries.alerts():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, rule["alert"]
        for name in ("description", "runbook"):
            assert rule["annotations"][name].endswith("."), f"{rule['alert']}: {name}"
