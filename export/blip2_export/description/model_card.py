"""Writes a bundle's README.md: a model card as the Hugging Face hub reads it, YAML first and Markdown after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from blip2_export.description.certificate import sentences
from blip2_export.description.weights import graph_files, readable, stage_precisions, total_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blip2_export.description.origin import Origin

Json = dict[str, Any]

TASK = "visual-question-answering"
QUANTIZED = ("int8", "int4")
UNKNOWN = {"license": "unknown"}


def model_card(manifest: Mapping[str, Any], origin: Origin, certificate: Json | None) -> bytes:
    """Returns the content of the card."""
    front = yaml.safe_dump(_front(manifest, origin), sort_keys=False, allow_unicode=True, width=1000)
    parts = (
        f"# {' '.join(manifest['name'].split())}",
        origin.summary,
        _what(manifest),
        "## Use",
        _list(f"{use}" for use in origin.uses),
        f"Not for: {origin.not_for}",
        f"Serve it with `blip2 serve --model DIR`, where DIR is this folder. It takes a picture and a text, and gives "
        f"at most {manifest['generation']['max_new_tokens']} new tokens unless asked for more.",
        "## Limits and biases",
        origin.limits_preface,
        _list(f"**{limit.title}.** {limit.text} ({limit.source})" for limit in origin.limits),
        f"Pictures are scaled to {manifest['image']['width']} x {manifest['image']['height']} pixels, so small print "
        "and small things are lost.",
        "## Licences",
        _list(_licence(licence.name, licence.covers, licence.url) for licence in origin.licences),
        origin.licence_advice,
        "## Certificate",
        sentences(certificate),
        "## Made from",
        _source(manifest, origin),
        _table(manifest["checkpoint"]["files"]),
        "## Files",
        f"{readable(total_bytes(manifest))} in all. `manifest.json` lists every file of the bundle with its hash; "
        "`bom.cdx.json` is the bill of materials of the weights (CycloneDX), `MLmodel` the signature for MLflow.",
        _table(graph_files(manifest)),
    )
    text = "\n\n".join(part for part in parts if part)
    return f"---\n{front}---\n\n{text}\n".encode()


def _front(manifest: Mapping[str, Any], origin: Origin) -> Json:
    """Returns the card's YAML fields, by the hub's names."""
    licences = _licence_fields(origin)
    front: Json = {"language": "en", **licences} if licences != UNKNOWN else dict(licences)
    if origin.repository:
        front["base_model"] = origin.repository
        if set(manifest["precision"].values()) & set(QUANTIZED):
            front["base_model_relation"] = "quantized"
    precisions = sorted(set(manifest["precision"].values()))
    front |= {
        "pipeline_tag": TASK,
        "library_name": "onnx",
        "tags": ["onnx", "onnxruntime", "blip-2", "opt", "image-to-text", manifest["target"], *precisions],
    }
    return front


def _licence_fields(origin: Origin) -> Json:
    """Returns the licence fields. The hub has names for single licences; a pair is `other`, with a name and a link."""
    expression = origin.licence_expression
    if expression == "unknown":
        return UNKNOWN
    if len(origin.licences) == 1:
        return {"license": expression.lower()}
    special = next(licence for licence in origin.licences if licence.url and licence.spdx != "MIT")
    name = "-and-".join(licence.name.lower().replace(" ", "-") for licence in origin.licences)
    return {"license": "other", "license_name": name, "license_link": special.url}


def _what(manifest: Mapping[str, Any]) -> str:
    return (
        f"Exported to ONNX for ONNX Runtime, as three graphs, by `blip2_export` {manifest['tools']['blip2_export']}: "
        f"target **{manifest['target']}**, {stage_precisions(manifest)}, opset {manifest['tools']['opset']}."
    )


def _source(manifest: Mapping[str, Any], origin: Origin) -> str:
    checkpoint = manifest["checkpoint"]
    revision = f"revision `{checkpoint['revision']}`" if checkpoint["revision"] else "revision not known"
    name = origin.repository or checkpoint["id"]
    return f"`{name}`, {revision}. These files were read:"


def _licence(name: str, covers: str, url: str | None) -> str:
    return f"{f'[{name}]({url})' if url else name}: {covers}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(files: Mapping[str, Json]) -> str:
    rows = [f"| `{name}` | {readable(entry['bytes'])} | `{entry['sha256']}` |" for name, entry in sorted(files.items())]
    return "\n".join(["| file | size | sha256 |", "|---|---|---|", *rows])
