"""A batch deployment of a model, or of a pipeline component."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from azure_lint import code, environment, model, names, service

if TYPE_CHECKING:
    from azure_lint.section import Section

_FILE_NAME = re.compile(r"[^/\\\s][^/\\]*\Z")


def check(deployment: Section) -> dict[str, tuple[str, str]]:
    """Answers with the registered model and environment that it uses."""
    names.check_endpoint_name(deployment, "name")
    names.check_endpoint_name(deployment, "endpoint_name")
    if deployment.choice("type", ("model", "pipeline")) == "pipeline":
        deployment.required("component", "azureml:NAME:VERSION, or the YAML of a pipeline component")
        return {}
    used = {
        "model": model.check_use(deployment),
        "environment": environment.check_use(deployment, dockerfile=None, settings=service.Settings(), serves=False),
    }
    if deployment.required("code_configuration", "code and scoring_script: the platform runs the batch driver with it"):
        code.check(deployment)
    if deployment.required("compute", "azureml:CLUSTER"):
        _check_compute(deployment)
    if deployment.required("resources", "resources: {instance_count: 1}"):
        resources = deployment.section("resources")
        if resources is not None and resources.required("instance_count", "how many nodes; one at least"):
            resources.integer("instance_count", 1)
    # Without `type`, the settings stand at the root.
    settings = deployment.section("settings") if deployment.has("settings") else deployment
    if settings is not None:
        _check_settings(settings)
    return {kind: reference for kind, reference in used.items() if reference is not None}


def _check_compute(deployment: Section) -> None:
    compute = deployment.text("compute")
    if compute is not None and not re.fullmatch(
        r"azureml:[A-Za-z][A-Za-z0-9-]*|(?:azureml:)?/subscriptions/\S+", compute
    ):
        deployment.report.error(deployment.where("compute"), compute, "must be azureml:CLUSTER")


def _check_settings(settings: Section) -> None:
    settings.integer("max_concurrency_per_instance", 1)
    settings.integer("mini_batch_size", 1, unit="files")
    # -1: ignore every failed file.
    settings.integer("error_threshold", -1)
    settings.choice("logging_level", ("debug", "info", "warning"), any_case=True)
    settings.choice("output_action", ("append_row", "summary_only"))
    name = settings.text("output_file_name")
    if name is not None and (not _FILE_NAME.match(name) or name in (".", "..")):
        settings.report.error(settings.where("output_file_name"), name, "must be the name of a file, without slashes")
    retries = settings.section("retry_settings")
    if retries is not None:
        retries.integer("max_retries", 0)
        retries.integer("timeout", 1, unit="seconds")
    variables = settings.section("environment_variables")
    for key, value in (variables.mapping if variables is not None else {}).items():
        if not isinstance(value, str):
            settings.report.error(
                f"{settings.where('environment_variables')}.{key}",
                value,
                "the value of a variable must be text: put it in quotes",
            )
