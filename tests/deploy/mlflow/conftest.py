"""What the tests with the real MLflow share: where things are, a registry of their own, and no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from no_network import no_network  # noqa: F401 - pytest finds the fixture here

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "export"))
# MLflow reads it when it is imported.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY"]:
    del os.environ[name]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a registry in a database file; artifacts come to lie beside it."""
    import mlflow

    folder = tmp_path_factory.mktemp("registry")
    before = Path.cwd()
    os.chdir(folder)
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    yield uri
    os.chdir(before)
