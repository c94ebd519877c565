"""Registers a bundle as a model, with Azure Machine Learning or with any MLflow registry.

Task, licence, the checkpoint's id and commit, precision, target, opset and file hashes become tags and properties. The
signature, in the bundle's file MLmodel, is that of Azure's catalogue model. Every file is compared with its hash first.

--dry-run prints what would be sent, and needs neither network nor the packages of Azure and MLflow: for Azure it is a
file for `az ml model create --file`. To send it, install the extra `azure` or `mlflow`, each in an environment of its
own. Azure is signed into as by `az login`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    import argparse


EXAMPLES = """\
examples:
  python -m blip2_export register --bundle onnx/int8 --to azure --dry-run
  python -m blip2_export register --bundle onnx/int8 --to azure --subscription S --resource-group G --workspace W
  python -m blip2_export register --bundle onnx/int8 --to azure --subscription S --registry R --version 2
  python -m blip2_export register --bundle onnx/int8 --to mlflow --tracking-uri http://127.0.0.1:5000
"""
OF_AZURE = ("subscription", "resource_group", "workspace", "registry", "version")
OF_MLFLOW = ("tracking_uri",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the bundle to register")
    parser.add_argument("--to", choices=("azure", "mlflow"), required=True, help="what to register it with")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    parser.add_argument(
        "--name",
        help="the model's name (default: blip2-opt-2-7b-onnx for Salesforce/blip2-opt-2.7b, else the bundle's)",
    )
    parser.add_argument("--version", help="azure: version of the model (default: one more than the last)")
    parser.add_argument("--subscription", metavar="ID", help="azure: id of the subscription")
    parser.add_argument("--resource-group", metavar="NAME", help="azure: resource group of the workspace")
    parser.add_argument("--workspace", metavar="NAME", help="azure: the workspace")
    parser.add_argument("--registry", metavar="NAME", help="azure: a registry that workspaces share, instead of one")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="mlflow: server or database (default: the variable MLFLOW_TRACKING_URI)"
    )


def run(options: argparse.Namespace) -> int:
    """Registers the bundle."""
    _refuse(options, OF_MLFLOW if options.to == "azure" else OF_AZURE)
    send = _azure if options.to == "azure" else _mlflow
    return send(options)


def _refuse(options: argparse.Namespace, others: tuple[str, ...]) -> None:
    """Refuses flags of the other registry, which would be ignored."""
    for name in others:
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            why = "; MLflow counts versions itself" if name == "version" else ""
            raise ExportError(f"{flag}: has no meaning with --to {options.to}{why}")


def _azure(options: argparse.Namespace) -> int:
    from blip2_export.progress import progress
    from blip2_export.registration import azure_ml
    from blip2_export.registration.facts import read_facts

    place = azure_ml.AzurePlace(options.subscription, options.resource_group, options.workspace, options.registry)
    place.check(is_dry_run=options.dry_run)
    facts = read_facts(options.bundle, options.name)
    if options.dry_run:
        _print(azure_ml.model_document(facts, options.version))
        progress(f"nothing was sent; this would go to the {place}")
        progress(f"saved as model.yml: az ml model create --file model.yml {place.command()}".rstrip())
        return 0
    progress(f"registering {facts.name} in the {place}")
    print(azure_ml.register(facts, options.version, place))
    return 0


def _mlflow(options: argparse.Namespace) -> int:
    from blip2_export.progress import progress
    from blip2_export.registration import mlflow_registry
    from blip2_export.registration.facts import read_facts

    uri = mlflow_registry.tracking_uri(options.tracking_uri)
    facts = read_facts(options.bundle, options.name)
    if options.dry_run:
        _print(mlflow_registry.version_document(facts, uri))
        progress(f"nothing was sent; this would go to {uri}")
        return 0
    print(mlflow_registry.register(facts, uri))
    return 0


def _print(document: dict[str, Any]) -> None:
    import yaml

    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000), end="")
