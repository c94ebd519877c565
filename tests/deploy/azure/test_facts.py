"""What the linter takes for granted about the service, the image and the documents is what they say of themselves."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from azure_lint import service
from azure_lint.bundles import BUNDLES
from azure_lint.dockerfile import exposed_ports
from azure_lint.instances import INSTANCES
from conftest import AZURE, REPOSITORY

OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
AZURE_PAGE = (REPOSITORY / "docs" / "azure.md").read_text()


def _default(variable: str) -> str:
    found = re.search(rf"\| `{variable}` \| ([^|]+) \|", OPERATIONS)
    assert found, variable
    return found[1]


def test_the_defaults_are_those_of_the_documents() -> None:
    assert _default("BLIP2_QUEUE_ROWS") == str(service.DEFAULT_QUEUE_ROWS)
    assert _default("BLIP2_TIMEOUT_S") == f"{service.DEFAULT_TIMEOUT_S:g}"
    assert _default("BLIP2_DRAIN_DELAY_S") == f"{service.DEFAULT_DRAIN_DELAY_S:g}"
    assert _default("BLIP2_SHUTDOWN_GRACE_S") == f"{service.DEFAULT_SHUTDOWN_GRACE_S:g}"
    assert _default("BLIP2_PORT") == f"`SERVER_PORT`, else {service.DEFAULT_PORT}"


def test_every_variable_of_the_documents_is_known() -> None:
    assert set(re.findall(r"`(BLIP2_[A-Z0-9_]+)`", OPERATIONS)) == service.SETTINGS


def test_the_binary_says_the_same() -> None:
    binary = next(
        (file for kind in ("release", "debug") if (file := REPOSITORY / "target" / kind / "blip2").exists()), None
    )
    if binary is None:
        pytest.skip("target/release/blip2 is missing: make build")
    told = subprocess.run([binary, "serve", "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    variables = set(re.findall(r"\[env: (BLIP2_[A-Z0-9_]+)[=\]]", told))
    # BLIP2_LOG has no flag, so that help does not name it.
    assert variables == service.SETTINGS - {"BLIP2_LOG"}


def test_the_dockerfile_exposes_the_port() -> None:
    dockerfile = REPOSITORY / "Dockerfile"
    if not dockerfile.is_file():
        pytest.skip("no Dockerfile at the top")
    assert exposed_ports(dockerfile) == {service.DEFAULT_PORT}


def test_the_page_has_the_sizes_of_every_bundle() -> None:
    for (target, precision), bundle in BUNDLES.items():
        row = re.search(rf"^\| {target} {precision} \|.*$", AZURE_PAGE, re.MULTILINE)
        assert row, f"docs/azure.md has no row for {target} {precision}"
        for number in (bundle.disk_gb, bundle.memory_gb, round(bundle.start_s)):
            assert re.search(rf"(?<![\d.]){re.escape(f'{number:g}')}(?![\d.]*\d)", row[0]), f"{number:g} in {row[0]}"


def _of_the_files(*path: str) -> list[str]:
    found = []
    for size in ("cpu", "cpu-small", "gpu-a100", "gpu-t4"):
        value = yaml.safe_load((AZURE / f"deployment-{size}.yml").read_text())
        for key in path:
            value = value[key]
        found.append(str(value))
    return found


def test_the_page_has_the_settings_of_the_files() -> None:
    def row(setting: str) -> str:
        found = re.search(rf"^\| `{setting}` \| ([^|]+) \|", AZURE_PAGE, re.MULTILINE)
        assert found, setting
        return found[1]

    concurrent = _of_the_files("request_settings", "max_concurrent_requests_per_instance")
    assert row("max_concurrent_requests_per_instance") == "{}; small CPU {}; A100 {}; T4 {}".format(*concurrent)
    rows = _of_the_files("environment_variables", "BLIP2_QUEUE_ROWS")
    assert row("BLIP2_QUEUE_ROWS") == "{}; small CPU {}; A100 {}; T4 {}".format(*rows)
    assert {row("request_timeout_ms")} == set(_of_the_files("request_settings", "request_timeout_ms"))
    assert {row("BLIP2_TIMEOUT_S")} == set(_of_the_files("environment_variables", "BLIP2_TIMEOUT_S"))


def test_the_page_names_only_sizes_that_there_are() -> None:
    named = set(re.findall(r"Standard_[A-Za-z0-9_]+", AZURE_PAGE))
    assert {"Standard_DS5_v2", "Standard_NC24ads_A100_v4"} <= named
    assert {name for name in named if name.lower() not in INSTANCES} == set()
