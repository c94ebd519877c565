"""A real Prometheus reads the real service, and every expression of dashboard, alerts and autoscaler has a meaning."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import queries
from metrics import ADDED_LABELS, OWN, Metrics
from service import REPOSITORY, Service, get

if TYPE_CHECKING:
    from prometheus import Prometheus
    from queries import Query

EVERY_QUERY = queries.of_dashboard() + queries.of_rules() + queries.of_autoscaling()
DOCS = ("operations.md", "monitoring.md", "kubernetes.md")
# Alerts are silent on a service that works; on it no expression of theirs gives anything, but for these parts.
SILENT = {query.place for query in queries.of_rules()}


def name_faults(query: Query, metrics: Metrics) -> list[str]:
    """Metrics and labels of an expression that the service does not have."""
    read = list(queries.selectors(query.expression))
    found = [fault for name, matchers in read for fault in metrics.faults(name, set(matchers))]
    known = ADDED_LABELS.union(*((metrics.labels | OWN).get(name, set()) for name, _ in read))
    return found + [f"no label {label}" for label in sorted(queries.grouped_labels(query.expression) - known)]


@pytest.mark.parametrize("query", EVERY_QUERY, ids=lambda query: query.place)
def test_every_metric_and_label_of_an_expression_exists(query: Query, metrics: Metrics) -> None:
    """In `/metrics` of the binary."""
    assert list(queries.selectors(query.expression))
    assert name_faults(query, metrics) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(blip2_requests_total[5m])", "there is no metric blip2_requests_total"),
        ("blip2_http_requests", "there is no metric blip2_http_requests"),
        ('blip2_rows{stage="decode"}', "blip2_rows has no label stage"),
        ("sum by (code) (blip2_http_requests_total)", "no label code"),
    ],
)
def test_a_metric_or_label_that_does_not_exist_is_caught(expression: str, fault: str, metrics: Metrics) -> None:
    """Prometheus itself would answer with nothing."""
    assert name_faults(queries.Query("here", expression), metrics) == [fault]


@pytest.mark.parametrize("query", EVERY_QUERY, ids=lambda query: query.place)
def test_every_expression_runs_and_those_of_panels_give_data(query: Query, prometheus: Prometheus) -> None:
    """An alert that gives data on a service that works would fire."""
    series = prometheus.ask(query.expression)
    if query.place in SILENT and query.place != "alert Blip2Overloaded":
        assert series == []
    else:
        # The mean of what did not happen of late is NaN: a stage, when every picture is known.
        values = [each["value"][1] for each in series]
        assert set(values) - {"NaN"}, f"{query.expression} gives {values}"


def test_an_expression_that_does_not_parse_is_an_error(prometheus: Prometheus) -> None:
    """Of the client of these tests."""
    with pytest.raises(ValueError, match="parse error"):
        prometheus.ask("sum(")


def test_prometheus_reads_the_service_and_the_rules(prometheus: Prometheus) -> None:
    """With the configuration of compose."""
    (target,) = prometheus.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"], target["labels"]["job"]) == ("up", "", "blip2")
    (group,) = prometheus.api("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in queries.alerts()]
    assert {(rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {("ok", "")}


def test_counters_say_what_was_asked(prometheus: Prometheus) -> None:
    """Three rounds: two answers, a wrong path, no picture, an address that may not be asked, a full queue."""
    for expression in (
        'blip2_http_requests_total{route="unknown",status="4xx"} == 3',
        'blip2_http_refusals_total{reason="overloaded"} > 0',
        'blip2_image_fetches_total{result="address"} == 3',
        'blip2_golden_replays_total{result="ok"} > 0',
        'blip2_cache_hits_total{cache="image"} > 0',
        "blip2_generated_tokens_total > 0",
    ):
        assert prometheus.ask(expression), expression


def test_values_of_labels_are_words_of_the_service(service: Service) -> None:
    """Reasons, results and stages are those of the documentation, routes are in the service's own list."""
    text = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    routes = json.loads(get(f"{service.url}/openapi.json")[1])["paths"]
    for query in EVERY_QUERY:
        for name, matchers in queries.selectors(query.expression):
            for label in matchers.keys() & {"reason", "result", "stage", "phase", "cache"}:
                for word in matchers[label].split("|"):
                    assert f"`{word}`" in text, f"{query.place}: {name} has no {label} {word}"
            for pattern in matchers.get("route", "").split("|") if "route" in matchers else []:
                assert any(re.fullmatch(pattern, route) for route in routes), f"{query.place}: no route {pattern}"


@pytest.mark.parametrize("page", DOCS)
def test_every_metric_that_the_documentation_names_exists(page: str, metrics: Metrics) -> None:
    """And the other way round on the page that lists them all."""
    text = (REPOSITORY / "docs" / page).read_text("utf-8")
    named = set(re.findall(r"\bblip2_[a-z0-9_]+\b", text)) - {"blip2_export"}
    assert named
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics.labels}
    assert sorted(named - families) == []
    if page == "operations.md":
        # `blip2_cache_hits_total{cache}`, `…_misses_total`, `…_evictions_total`
        short = {f"blip2_cache{each}" for each in re.findall(r"…(_\w+_total)", text)}
        assert sorted(families - named - short) == []
