"""The service keeps what its own description says, whatever is sent to it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Service

# What a generated request may come to without being a fault of the service or its description.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_what_schemathesis_sends_is_answered_as_described(service: Service, tmp_path: Path) -> None:
    """Some hundred generated requests to every operation."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"]
    command += ["--checks", CHECKS, "--max-examples", "25", "--seed", "1", "--request-timeout", "30", "--no-color"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_every_documented_path_is_there_and_the_page_needs_no_other_server(service: Service) -> None:
    """`/docs` loads nothing from elsewhere."""
    with urllib.request.urlopen(f"{service.url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    assert {"/score", "/invocations", "/v1/chat/completions", "/v1/rank", "/v2/models/{model}/infer"} <= paths.keys()
    with urllib.request.urlopen(f"{service.url}/docs/") as answer:
        page = answer.read().decode()
    assert "swagger-ui" in page
    assert "https://" not in page
