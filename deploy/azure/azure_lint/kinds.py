"""Which kind of thing a document describes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure_lint.section import Section

# By the names of Azure's schemas.
_SCHEMAS = {
    "environment": "environment",
    "model": "model",
    "managedOnlineEndpoint": "online-endpoint",
    "managedOnlineDeployment": "online-deployment",
    "batchEndpoint": "batch-endpoint",
    "batchDeployment": "batch-deployment",
    "modelBatchDeployment": "batch-deployment",
    "pipelineComponentBatchDeployment": "batch-deployment",
}
KINDS = tuple(dict.fromkeys(_SCHEMAS.values()))
_ADDRESS = re.compile(r"https://azuremlschemas\.azureedge\.net/(?:latest|development)/([A-Za-z]+)\.schema\.json\Z")
_BATCH_FIELDS = ("compute", "settings", "resources", "mini_batch_size", "output_action", "component")


def kind_of(document: Section) -> str | None:
    """By its `$schema`, else by its fields; None, with a finding, where neither says."""
    if document.has("$schema"):
        address = document.text("$schema")
        found = _ADDRESS.match(address) if address is not None else None
        if found and found[1] in _SCHEMAS:
            return _SCHEMAS[found[1]]
        document.report.error(
            "$schema",
            document.get("$schema"),
            "must be https://azuremlschemas.azureedge.net/latest/KIND.schema.json with KIND one of "
            + ", ".join(_SCHEMAS),
        )
    kind = _by_fields(document)
    if kind is None and not document.has("$schema"):
        document.report.missing("$schema", f"say what this is, or give --kind {'|'.join(KINDS)}")
    return kind


def _by_fields(document: Section) -> str | None:
    has = document.has
    if has("endpoint_name") or has("instance_type") or has("instance_count"):
        batch = any(map(has, _BATCH_FIELDS)) or document.get("type") in ("model", "pipeline")
        return "batch-deployment" if batch and not has("instance_type") else "online-deployment"
    if has("defaults"):
        return "batch-endpoint"
    if has("traffic") or has("mirror_traffic") or has("auth_mode"):
        return "online-endpoint"
    if any(map(has, ("image", "build", "conda_file", "inference_config"))):
        return "environment"
    if has("path") or has("type"):
        return "model"
    return None
