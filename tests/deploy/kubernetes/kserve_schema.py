"""A manifest against the models of the `kserve` package and, below them, of the `kubernetes` package.

Both were generated from the OpenAPI description of their APIs: each class lists its fields and their types, and its
constructor refuses a missing one. They read a manifest without a word about what they do not know, so this walks along.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import kserve.models
import kubernetes.client.models

if TYPE_CHECKING:
    from rendering import Manifest

_KINDS = {
    "InferenceService": ("serving.kserve.io/v1beta1", kserve.models.V1beta1InferenceService),
    "ClusterServingRuntime": ("serving.kserve.io/v1alpha1", kserve.models.V1alpha1ClusterServingRuntime),
    "ServingRuntime": ("serving.kserve.io/v1alpha1", kserve.models.V1alpha1ServingRuntime),
}
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "ResourceQuantity": (str, int, float),
    "IntOrString": (int, str),
    "object": (object,),
}


def faults(manifest: Manifest) -> list[str]:
    """Unknown fields, wrong types, missing fields, each with its place."""
    kind, version = manifest.get("kind", ""), manifest.get("apiVersion", "")
    if kind not in _KINDS:
        return [f"KServe knows no {kind}; checked are {', '.join(_KINDS)}"]
    expected, model = _KINDS[kind]
    if version != expected:
        return [f"apiVersion: {version}, and {expected} has {kind}"]
    found: list[str] = []
    _build(model, manifest, "", found)
    return found


def _build(model: type, value: Any, place: str, found: list[str]) -> None:  # noqa: ANN401 - any YAML
    if not isinstance(value, dict):
        found.append(f"{place}: {value!r} is no {model.__name__}")
        return
    names = {key: name for name, key in model.attribute_map.items()}
    for key in value.keys() - names.keys():
        found.append(f"unknown field {place}{key}")
    for key in value.keys() & names.keys():
        _check(model.openapi_types[names[key]], value[key], f"{place}{key}", found)
    try:
        # The setters hold what is required and which values there are.
        model(**{names[key]: each for key, each in value.items() if key in names})
    except (TypeError, ValueError) as error:
        found.append(f"{place}{error}")


def _check(kind: str, value: Any, place: str, found: list[str]) -> None:  # noqa: ANN401 - any YAML
    if several := re.fullmatch(r"[Ll]ist\[(.+)]", kind):
        if not isinstance(value, list):
            found.append(f"{place}: {value!r} is no list")
            return
        for index, each in enumerate(value):
            _check(several[1], each, f"{place}.{index}", found)
    elif mapping := re.fullmatch(r"(?:dict\(|Dict\[)str, (.+)[)\]]", kind):
        if not isinstance(value, dict):
            found.append(f"{place}: {value!r} is no mapping")
            return
        for key, each in value.items():
            _check(mapping[1], each, f"{place}.{key}", found)
    elif kind in _PLAIN:
        # In Python True is an int, in YAML it is none.
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind not in ("bool", "object")):
            found.append(f"{place}: {value!r} is no {kind}")
    else:
        _build(_model(kind), value, f"{place}.", found)


@cache
def _model(name: str) -> type:
    # KServe calls Kubernetes' DeploymentStrategy by its long name.
    short = re.sub(r"^K8sIoApi\w*?(?=V\d)", "", name)
    for source in (kserve.models, kubernetes.client.models):
        if model := getattr(source, short, None):
            return model
    raise LookupError(f"neither kserve nor kubernetes has the model {name}")
