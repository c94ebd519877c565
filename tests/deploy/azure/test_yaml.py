"""Every YAML file that a user is given: the real SDK loads it, and the linter has nothing to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from azure_lint import lint_files
from azure_lint.finding import Report
from azure_lint.kinds import kind_of
from azure_lint.section import Section
from conftest import AZURE
from loading import load

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(AZURE.rglob("*.yml"))
DEPLOYMENTS = [file for file in FILES if file.name.startswith("deployment")]


def _kind(file: Path) -> str:
    kind = kind_of(Section(yaml.safe_load(file.read_text()), Report(file)))
    assert kind is not None
    return kind


def _name(file: Path) -> str:
    return str(file.relative_to(AZURE))


def test_the_files_are_there() -> None:
    assert {_name(file) for file in FILES} >= {
        "deployment-cpu-small.yml",
        "deployment-cpu.yml",
        "deployment-gpu-a100.yml",
        "deployment-gpu-t4.yml",
        "endpoint.yml",
        "environment-cuda.yml",
        "environment.yml",
        "local/deployment.yml",
        "local/endpoint.yml",
        "model.yml",
    }


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_the_sdk_loads_the_file(file: Path) -> None:
    entity = load(_kind(file), file)
    assert entity.name == yaml.safe_load(file.read_text())["name"]


def test_the_linter_finds_nothing() -> None:
    assert [str(finding) for finding in lint_files(FILES)] == []


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_the_file_names_its_schema(file: Path) -> None:
    assert yaml.safe_load(file.read_text())["$schema"].endswith(".schema.json")


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=_name)
def test_a_deployment_says_its_timeouts_and_queue(file: Path) -> None:
    deployment = load("online-deployment", file)
    milliseconds = deployment.request_settings.request_timeout_ms
    assert 5000 < milliseconds <= 180_000
    assert float(deployment.environment_variables["BLIP2_TIMEOUT_S"]) * 1000 < milliseconds
    rows = int(deployment.environment_variables.get("BLIP2_QUEUE_ROWS", 64))
    # The published sample request has two rows.
    assert rows >= 2 * 2 * deployment.request_settings.max_concurrent_requests_per_instance
