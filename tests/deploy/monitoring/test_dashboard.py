"""The dashboard against Grafana's own schema, and what a reader of it needs."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import queries
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus import CONFIGURATION
from service import REPOSITORY

PROVISIONING = REPOSITORY / "deploy" / "grafana" / "provisioning"
# Wide as Grafana's grid.
COLUMNS = 24

register_default_plugins()


def unknown(given: Any, kept: Any, place: str = "") -> list[str]:  # noqa: ANN401 - any JSON
    """What Grafana's models have dropped or changed."""
    if isinstance(given, dict) and isinstance(kept, dict):
        found = [f"{place}{key} is unknown" for key in given.keys() - kept.keys()]
        return found + [
            each for key in given.keys() & kept.keys() for each in unknown(given[key], kept[key], f"{place}{key}.")
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [each for index, (one, other) in pairs for each in unknown(one, other, f"{place}{index}.")]
    return [] if given == kept else [f"{place}: {given!r} became {kept!r}"]


def schema_faults(board: dict[str, Any]) -> list[str]:
    """Through the models of Grafana's SDK and back, panels and their queries by their own kind."""
    return unknown(board, json.loads(JSONEncoder().encode(Dashboard.from_json(deepcopy(board)))))


def layout_faults(board: dict[str, Any]) -> list[str]:
    """Panels without what a reader needs, with an id twice, or on top of each other."""
    found: list[str] = []
    taken: dict[tuple[int, int], dict[str, Any]] = {}
    ids: set[int] = set()
    for panel in board["panels"]:
        title, place = panel["title"], panel["gridPos"]
        if panel["id"] in ids:
            found.append(f"{title}: its id is another's")
        ids.add(panel["id"])
        if place["x"] + place["w"] > COLUMNS:
            found.append(f"{title}: reaches out of the grid")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (other := taken.setdefault((x, y), panel))["id"] != panel["id"]:
                    found.append(f"{title}: lies on {other['title']}")
    for panel in queries.panels(board):
        if not panel["fieldConfig"]["defaults"].get("unit"):
            found.append(f"{panel['title']}: has no unit")
        for target in panel["targets"]:
            if panel["datasource"] != target["datasource"] or target["datasource"]["uid"] != "${datasource}":
                found.append(f"{panel['title']}: does not ask the chosen data source")
            if "$job" not in target["expr"]:
                found.append(f"{panel['title']}: reads other jobs too")
    return found


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    """With its values."""
    assert schema_faults(queries.dashboard()) == []


def test_panels_have_units_and_places_and_ask_the_chosen_source() -> None:
    """And read the chosen job alone."""
    assert layout_faults(queries.dashboard()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda board: board["panels"][1].update(titel="Ready"), "titel is unknown"),
        (lambda board: board["panels"][1]["options"].update(colourMode="value"), "colourMode is unknown"),
        (lambda board: board["panels"][1]["targets"][0].update(expression="up"), "expression is unknown"),
        (lambda board: board["panels"][1]["fieldConfig"]["defaults"].update(units="s"), "units is unknown"),
        (lambda board: board["templating"]["list"][0].update(multiple=True), "multiple is unknown"),
    ],
)
def test_a_field_that_grafana_does_not_know_is_caught(change: Any, message: str) -> None:  # noqa: ANN401
    """At every depth."""
    board = queries.dashboard()
    change(board)
    assert message in "\n".join(schema_faults(board))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda panel: panel.update(id=1), "its id is another's"),
        (lambda panel: panel["gridPos"].update(x=22), "reaches out of the grid"),
        (lambda panel: panel["gridPos"].update(y=0), "Ready: lies on Now"),
        (lambda panel: panel["fieldConfig"]["defaults"].pop("unit"), "has no unit"),
        (lambda panel: panel["targets"][0]["datasource"].update(uid="mine"), "does not ask the chosen data source"),
        (lambda panel: panel["targets"][0].update(expr="blip2_ready"), "reads other jobs too"),
    ],
)
def test_a_bad_panel_is_caught(change: Any, message: str) -> None:  # noqa: ANN401
    """One fault each."""
    board = queries.dashboard()
    change(board["panels"][1])
    assert message in "\n".join(layout_faults(board))


def test_the_provisioned_source_is_the_prometheus_of_compose() -> None:
    """By its name in there, and as often as it reads; the dashboard lies where Grafana is told to look."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    services = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    interval = yaml.safe_load(CONFIGURATION.read_text("utf-8"))["global"]["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"
    assert any(port.endswith(":9090") for port in services["prometheus"]["ports"])
    assert source["jsonData"]["timeInterval"] == interval
    assert queries.dashboard()["templating"]["list"][0]["current"]["value"] == source["uid"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "blip2.yml").read_text("utf-8"))["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
