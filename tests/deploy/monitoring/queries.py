"""Every expression that deploy/ asks Prometheus, and what it names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import promql_parser
import yaml
from prometheus import RULES
from service import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "blip2.json"
ADAPTER = REPOSITORY / "deploy" / "kubernetes" / "prometheus-adapter-values.yaml"
# What Grafana puts in their places.
VARIABLES = {"$job": "blip2", "$instance": ".*", "$__rate_interval": "1m"}


@dataclass(frozen=True)
class Query:
    """An expression, and where it stands."""

    place: str
    expression: str


def dashboard() -> dict[str, Any]:
    """As Grafana reads it."""
    return json.loads(DASHBOARD.read_text("utf-8"))


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    """All rules."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def of_dashboard() -> list[Query]:
    """With variables replaced."""
    board = dashboard()
    found = [
        Query(f"panel {panel['title']!r}", _replaced(target["expr"]))
        for panel in panels(board)
        for target in panel["targets"]
    ]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked, variable["name"]
            found.append(Query(f"variable {variable['name']!r}", f"group by ({asked[2]}) ({_replaced(asked[1])})"))
    return found


def of_rules() -> list[Query]:
    """Of the alerts."""
    return [Query(f"alert {rule['alert']}", rule["expr"]) for rule in alerts()]


def of_autoscaling() -> list[Query]:
    """As prometheus-adapter asks for what the autoscaler reads; Prometheus' labels stand in for the cluster's."""
    (rule,) = yaml.safe_load(ADAPTER.read_text("utf-8"))["rules"]["custom"]
    series = re.match(r"\w+", rule["seriesQuery"])
    assert series, rule["seriesQuery"]
    expression = rule["metricsQuery"]
    for name, value in {"Series": series[0], "LabelMatchers": 'job="blip2"', "GroupBy": "instance"}.items():
        expression = expression.replace(f"<<.{name}>>", value)
    return [Query("prometheus-adapter", expression)]


def _replaced(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"a variable that is not known: {expression}"
    return expression


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each metric that an expression reads, with its matchers."""
    found: list[tuple[str, dict[str, str]]] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {each.name: each.value for each in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expression), visit)
    yield from found


def grouped_labels(expression: str) -> set[str]:
    """Those that it aggregates by or without."""
    found: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            found.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found
