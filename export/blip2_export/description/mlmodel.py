"""Writes MLmodel, the file that MLflow reads in a model's folder. The signature is that of the catalogue model.

Holds neither time nor id nor version of MLflow: those differ by run, and this file is hashed. MLflow fills in what is
missing when it loads the file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from blip2_export.description.model_card import TASK
from blip2_export.description.weights import STAGES, external_data, total_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blip2_export.description.origin import Origin

Json = dict[str, Any]

# The module that MLflow imports to load the model: the Python package of this project.
LOADER = "blip2_onnx.pyfunc"
FLAVOR = "blip2_onnx"
SIGNATURE: Json = {
    "inputs": [
        {"type": "binary", "name": "image", "required": True},
        {"type": "string", "name": "text", "required": True},
    ],
    "outputs": [{"type": "string", "name": "text", "required": True}],
    "params": None,
}


def mlmodel(manifest: Mapping[str, Any], origin: Origin) -> bytes:
    """Returns the content of the file."""
    content = {
        "flavors": {
            FLAVOR: {
                "manifest": "manifest.json",
                "schema_version": manifest["schema_version"],
                "target": manifest["target"],
                "precision": dict(manifest["precision"]),
                "graphs": {stage: manifest[stage]["file"] for stage in STAGES},
                "external_data": external_data(manifest),
                "tokenizer": manifest["tokenizer"]["file"],
            },
            "python_function": {"loader_module": LOADER},
        },
        "metadata": {
            "name": manifest["name"],
            "task": TASK,
            "license": origin.licence_expression,
            "huggingface_model_id": origin.repository,
            "SHA": manifest["checkpoint"]["revision"],
        },
        "model_size_bytes": total_bytes(manifest),
        # The fields hold JSON as text: so MLflow wants it.
        "signature": {name: value and json.dumps(value) for name, value in SIGNATURE.items()},
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000).encode()
