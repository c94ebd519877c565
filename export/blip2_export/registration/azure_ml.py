"""Registers with Azure Machine Learning through its SDK (the extra `azure`), as a `custom_model`.

Not as `mlflow_model`: that type makes Azure install a Python environment when a deployment starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError
from blip2_export.registration.facts import NAME

if TYPE_CHECKING:
    from blip2_export.registration.facts import Facts

Json = dict[str, Any]

SCHEMA = "https://azuremlschemas.azureedge.net/latest/model.schema.json"


@dataclass(frozen=True)
class AzurePlace:
    """The place of registration: a workspace, or a registry that workspaces share."""

    subscription: str | None
    resource_group: str | None
    workspace: str | None
    registry: str | None

    def __str__(self) -> str:
        if self.registry:
            return f"registry {self.registry}"
        return (
            f"workspace {self.workspace or '(--workspace)'} of resource group "
            f"{self.resource_group or '(--resource-group)'}, subscription {self.subscription or '(--subscription)'}"
        )

    def check(self, *, is_dry_run: bool = False) -> None:
        """Refuses flags that name no place, or two. A dry run may leave the place open.

        Raises:
            ExportError: flags are missing or contradict each other.
        """
        if self.registry and (self.workspace or self.resource_group):
            raise ExportError("--registry: a model goes into a registry or a workspace; leave out the other's flags")
        workspace = {
            "--subscription": self.subscription,
            "--resource-group": self.resource_group,
            "--workspace": self.workspace,
        }
        missing = [flag for flag, value in workspace.items() if not value]
        if missing and not self.registry and not is_dry_run:
            raise ExportError(f"--to azure needs {', '.join(missing)}, or --registry")

    def command(self) -> str:
        """Returns the flags of `az ml` for this place."""
        if self.registry:
            return f"--registry-name {self.registry}"
        flags = {
            "--subscription": self.subscription,
            "--resource-group": self.resource_group,
            "--workspace-name": self.workspace,
        }
        return " ".join(f"{flag} {value}" for flag, value in flags.items() if value)


def model_document(facts: Facts, version: str | None) -> Json:
    """Returns the model in the form of `az ml` YAML. Without a version, Azure uses one more than the last.

    Raises:
        ExportError: Azure does not accept the version; its SDK would find out after the upload.
    """
    if version is not None and not NAME.fullmatch(version):
        raise ExportError(
            f"--version {version!r}: a version has 1 to 255 letters, digits, dots, dashes and underscores, and begins "
            "with a letter or digit"
        )
    return {
        "$schema": SCHEMA,
        "name": facts.name,
        **({"version": version} if version else {}),
        "type": "custom_model",
        "path": str(facts.folder),
        "description": facts.description,
        "tags": facts.tags,
        "properties": facts.properties,
    }


def register(facts: Facts, version: str | None, place: AzurePlace) -> str:
    """Uploads and registers the bundle. Returns its name and version.

    Raises:
        ExportError: the extra is missing, or Azure refused.
    """
    document = model_document(facts, version)
    del document["$schema"]
    try:
        from azure.ai.ml import MLClient
        from azure.ai.ml.entities import Model
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.identity import DefaultAzureCredential
    except ImportError as error:
        raise ExportError(
            f"{error.name} is missing; install the extra `azure`: pip install 'blip2-export[azure]', in an environment "
            "of its own"
        ) from error
    where = {"registry_name": place.registry} if place.registry else {"workspace_name": place.workspace}
    try:
        client = MLClient(
            DefaultAzureCredential(),
            subscription_id=place.subscription,
            resource_group_name=place.resource_group,
            enable_telemetry=False,
            **where,
        )
        found = client.models.create_or_update(Model(**document))
    except AzureError as error:  # what the SDK's own errors derive from
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "; sign in with `az login`" if isinstance(error, ClientAuthenticationError) else ""
        raise ExportError(f"{place}: Azure did not take the model ({reason}){remedy}") from error
    return f"{found.name}:{found.version}"
