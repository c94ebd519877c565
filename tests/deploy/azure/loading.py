"""Loads YAML with the real azure-ai-ml, by the kinds of the linter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.ai.ml import (
    load_batch_endpoint,
    load_environment,
    load_model,
    load_online_deployment,
    load_online_endpoint,
)

# The public load_batch_deployment refuses every YAML with `settings`.
from azure.ai.ml.entities._load_functions import load_model_batch_deployment

if TYPE_CHECKING:
    from pathlib import Path

_LOADERS = {
    "environment": load_environment,
    "model": load_model,
    "online-endpoint": load_online_endpoint,
    "online-deployment": load_online_deployment,
    "batch-endpoint": load_batch_endpoint,
    "batch-deployment": load_model_batch_deployment,
}


def load(kind: str, path: Path) -> object:
    """The entity that the SDK makes of a file. Raises what the SDK raises."""
    return _LOADERS[kind](path)
