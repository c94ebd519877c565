"""A model, registered or inline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure_lint import names, paths

if TYPE_CHECKING:
    from azure_lint.section import Section

_TYPES = ("custom_model", "mlflow_model", "triton_model")


def check(model: Section, named: bool = True) -> None:
    """`named`: it will be registered, so that it needs a name."""
    names.check_asset_name(model, needed=named)
    kind = model.choice("type", _TYPES)
    if kind is not None and kind != "custom_model":
        model.report.warning(
            model.where("type"),
            kind,
            "custom_model is what a bundle is: mlflow_model would install conda packages at the start",
        )
    if not model.required("path", "the folder of the bundle"):
        return
    path = model.text("path")
    if path is None or names.is_remote(path):
        return
    if not paths.exists(model.folder / path):
        model.report.error(model.where("path"), path, f"no such file or folder, seen from {model.folder}")


def check_use(deployment: Section) -> tuple[str, str] | None:
    """The field `model` of a deployment: inline, or a reference, which is answered."""
    if not deployment.required(
        "model", "azureml:NAME:VERSION, or a model inline: without it there is no bundle to serve"
    ):
        return None
    if isinstance(deployment.get("model"), dict):
        inline = deployment.section("model")
        if inline is not None:
            check(inline, named=False)
        return None
    return names.check_reference(deployment, "model", "model")
