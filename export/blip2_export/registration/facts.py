"""Collects the facts for a registry: name, description, tags and properties.

The limits are those that Azure Machine Learning documents for tags and properties of runs; it documents none for
models. Names of tags keep to the characters that Azure allows everywhere. MLflow's limits are wider.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from blip2_export.bundle.folder import MANIFEST, check_files, read_manifest
from blip2_export.description.certificate import verdict
from blip2_export.description.mlmodel import SIGNATURE
from blip2_export.description.model_card import TASK
from blip2_export.description.names import DOCUMENTS
from blip2_export.description.origin import origin_of
from blip2_export.description.parity_file import read_certificate
from blip2_export.description.weights import STAGES, stage_precisions
from blip2_export.errors import ExportError
from blip2_export.hashing import file_entry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from blip2_export.description.origin import Origin

Json = dict[str, Any]

# The name of the catalogue's checkpoint as this project registers it; docs/azure.md and deploy/azure use it.
NAMES = {"Salesforce/blip2-opt-2.7b": "blip2-opt-2-7b-onnx"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
MOST_ENTRIES, LONGEST_KEY, LONGEST_VALUE = 50, 100, 1000
# Azure takes no more files in one version of a model.
MOST_FILES = 1500
NONE, UNKNOWN = "none", "unknown"


@dataclass(frozen=True)
class Facts:
    """The facts about a model. `folder` is absolute."""

    folder: Path
    name: str
    description: str
    tags: dict[str, str]
    properties: dict[str, str]
    signature: Json


def read_facts(folder: Path, name: str | None) -> Facts:
    """Checks a bundle and collects its facts. `name` defaults to a name after its checkpoint.

    Raises:
        ExportError: a file differs from its hash, is missing or not listed, or registries do not accept `name`.
    """
    manifest = read_manifest(folder)
    _check(folder, manifest)
    origin = origin_of(manifest)
    facts = Facts(
        folder=folder.resolve(),
        name=_name(manifest, origin) if name is None else name,
        description=_description(manifest, origin),
        tags=_tags(folder, manifest, origin),
        properties=_properties(manifest),
        signature=SIGNATURE,
    )
    if not NAME.fullmatch(facts.name):
        raise ExportError(
            f"--name {facts.name!r}: a model's name has 1 to 255 letters, digits, dots, dashes and underscores, and "
            "begins with a letter or digit"
        )
    _check_lengths(facts)
    return facts


def _check(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a bundle that is damaged, lacks its documents, or shares its folder with other files."""
    missing = [name for name in DOCUMENTS if name not in manifest["files"]]
    if missing:
        raise ExportError(
            f"{folder}: has no {', '.join(missing)}; an older exporter wrote it. Add what is missing: "
            f"python -m blip2_export describe --bundle {folder}"
        )
    listed = {MANIFEST, *manifest["files"]}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in listed:
            raise ExportError(f"{path}: is not listed in {MANIFEST}, and would be uploaded; move it out of the bundle")
    if len(listed) > MOST_FILES:
        raise ExportError(f"{folder}: has {len(listed)} files, and a model may have {MOST_FILES}; keep fewer goldens")
    check_files(folder, dict(manifest))


def _name(manifest: Mapping[str, Any], origin: Origin) -> str:
    if origin.repository in NAMES:
        return NAMES[origin.repository]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", manifest["name"]).strip("-_")
    return f"{plain or 'blip2'}-onnx"


def _description(manifest: Mapping[str, Any], origin: Origin) -> str:
    of = origin.repository or manifest["name"]
    return (
        f"{of} as ONNX graphs for ONNX Runtime, served by blip2: target {manifest['target']}, "
        f"{stage_precisions(manifest)}. Model card: README.md; licences: {_licences(origin)}."
    )


def _licences(origin: Origin) -> str:
    return ", ".join(licence.name for licence in origin.licences)


def _tags(folder: Path, manifest: Mapping[str, Any], origin: Origin) -> dict[str, str]:
    """Returns the tags, for filtering. `precision` is the decoder's, after which bundles are usually named."""
    checkpoint = manifest["checkpoint"]
    return {
        "task": TASK,
        "license": origin.licence_expression,
        "huggingface_model_id": origin.repository or NONE,
        "SHA": checkpoint["revision"] or UNKNOWN,
        "precision": manifest["precision"]["decoder"],
        "target": manifest["target"],
        "opset": manifest["tools"]["opset"],
        "parity": verdict(read_certificate(folder, manifest)),
        "bundle": manifest["name"],
        "manifest_sha256": file_entry(folder / MANIFEST)["sha256"],
    }


def _properties(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns the properties, with file hashes while there is room; the manifest, whose hash is a tag, has all."""
    properties = {
        "checkpoint": manifest["checkpoint"]["id"],
        "blip2_export": manifest["tools"]["blip2_export"],
        "schema_version": str(manifest["schema_version"]),
        "licence_terms": _licences(origin_of(manifest)),
        **{f"precision.{stage}": manifest["precision"][stage] for stage in STAGES},
    }
    hashes = _hashes(manifest)
    room = MOST_ENTRIES - len(properties) - 1
    listed = len(manifest["files"]) + len(manifest["checkpoint"]["files"])
    kept = dict(islice(hashes.items(), room))
    return {**properties, "hashes": f"{len(kept)} of {listed}", **kept}


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns hashes by the property's name: the bundle's own files, its checkpoint's, then golden answers.

    A slash is written as a colon, since Azure forbids slashes in names of tags.
    """
    files, source = manifest["files"], manifest["checkpoint"]["files"]
    hashes = {f"sha256.{name.replace('/', ':')}": entry["sha256"] for name, entry in files.items()}
    hashes |= {f"checkpoint.sha256.{name}": entry["sha256"] for name, entry in source.items()}
    in_order = sorted(hashes.items(), key=lambda entry: ":" in entry[0])
    return {name: value for name, value in in_order if len(name) <= LONGEST_KEY}


def _check_lengths(facts: Facts) -> None:
    for name, value in {**facts.tags, **facts.properties}.items():
        if len(value) > LONGEST_VALUE:
            raise ExportError(
                f"{facts.folder}: {name} has {len(value)} characters, a registry takes {LONGEST_VALUE}: {value[:40]}…"
            )
