"""Registers with any MLflow registry through MLflow (the extra `mlflow`).

The bundle is uploaded as artifacts of a run, and the version points there. This works with and without a server,
and a registry never refers to a folder of this machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from blip2_export.registration.facts import Facts

Json = dict[str, Any]

ARTIFACTS = "model"
TRACKING_VARIABLE, EXPERIMENT_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"


def tracking_uri(flag: str | None) -> str:
    """Returns the server or database to register with.

    Raises:
        ExportError: none was named, or it is Azure's, to which MLflow cannot upload.
    """
    uri = flag or os.environ.get(TRACKING_VARIABLE)
    if not uri:
        raise ExportError(f"--to mlflow needs --tracking-uri or {TRACKING_VARIABLE}, such as sqlite:///mlflow.db")
    if uri.startswith("azureml"):
        raise ExportError(f"--tracking-uri {uri}: MLflow 3 cannot upload to Azure; use --to azure")
    return uri


def version_document(facts: Facts, uri: str) -> Json:
    """Returns the entry to send. MLflow has no properties, so they become tags."""
    return {
        "tracking_uri": uri,
        "name": facts.name,
        "path": str(facts.folder),
        "description": facts.description,
        "tags": {**facts.tags, **facts.properties},
        "signature": facts.signature,
    }


def register(facts: Facts, uri: str) -> str:
    """Uploads and registers the bundle. Returns its name and version.

    Raises:
        ExportError: the extra is missing, or MLflow refused.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reports usage to its makers from the import on
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ExportError(
            f"{error.name} is missing; install the extra `mlflow`: pip install 'blip2-export[mlflow]', in an "
            "environment of its own"
        ) from error
    document = version_document(facts, uri)
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(os.environ.get(EXPERIMENT_VARIABLE, facts.name))
        with mlflow.start_run(run_name=f"register {facts.name}") as run:
            mlflow.log_artifacts(str(facts.folder), ARTIFACTS)
        found = mlflow.register_model(f"runs:/{run.info.run_id}/{ARTIFACTS}", facts.name, tags=document["tags"])
        mlflow.MlflowClient().update_model_version(found.name, found.version, document["description"])
    except MlflowException as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{uri}: MLflow did not take the model ({reason})") from error
    return f"{found.name}:{found.version}"
