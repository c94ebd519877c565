"""Every manifest against the schema of its own API: Kubernetes', KServe's, the Prometheus operator's.

Kubernetes' schemas refuse unknown fields. The operator's come as Python models, which drop what they do not know in
silence; so a manifest goes through them and back, and whatever is missing afterwards was unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kserve_schema
import kubernetes_validate
import pydantic
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

if TYPE_CHECKING:
    from rendering import Manifest

# KServe asks for 1.32; the newest that the schemas know must do as well.
VERSIONS = ("1.32", "1.37")


def faults(manifest: Manifest) -> list[str]:
    """What the schema of its kind has against a manifest; empty when nothing."""
    group = manifest.get("apiVersion", "").split("/")[0]
    if group == "serving.kserve.io":
        found = kserve_schema.faults(manifest)
    elif group == "monitoring.coreos.com":
        found = _operator_faults(manifest)
    else:
        found = _kubernetes_faults(manifest)
    name = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    return [f"{name}: {fault}" for fault in found]


def _kubernetes_faults(manifest: Manifest) -> list[str]:
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"Kubernetes {version}: {error}")
        except kubernetes_validate.SchemaNotFoundError:
            found.append(f"Kubernetes {version} has no {manifest['kind']} of {manifest['apiVersion']}")
    return found


def _operator_faults(manifest: Manifest) -> list[str]:
    model = getattr(prometheus_operator, manifest["kind"], None)
    if model is None:
        return [f"the Prometheus operator knows no {manifest['kind']}"]
    try:
        known = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return lost(manifest, known)


def lost(given: Any, kept: Any, place: str = "") -> list[str]:  # noqa: ANN401 - any YAML
    """The fields of `given` that are not in `kept`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        found = [f"unknown field {place}{key}" for key in given.keys() - kept.keys()]
        return found + [
            each for key in given.keys() & kept.keys() for each in lost(given[key], kept[key], f"{place}{key}.")
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [
            each
            for index, (one, other) in enumerate(zip(given, kept, strict=True))
            for each in lost(one, other, f"{place}{index}.")
        ]
    return []
