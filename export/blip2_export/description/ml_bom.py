"""bom.cdx.json: a bill of materials of the weights, in CycloneDX 1.6.

Components, hashes and licences are written by CycloneDX's own library. The library has no model cards, which the
format has since 1.5; they are added to its output, and tests validate the whole with the format's schema.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

from blip2_export import __version__
from blip2_export.description.certificate import metrics
from blip2_export.description.mlmodel import SIGNATURE
from blip2_export.description.model_card import TASK
from blip2_export.description.origin import OPT_LICENCE
from blip2_export.description.weights import graph_files, stage_precisions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blip2_export.description.origin import Licence, Limit, Origin

Json = dict[str, Any]

NAMESPACE = uuid5(NAMESPACE_URL, "blip2_export:bill-of-materials")
ARCHITECTURE = "Blip2ForConditionalGeneration"
HUB = "https://huggingface.co"


def ml_bom(manifest: Mapping[str, Any], origin: Origin, certificate: Json | None) -> bytes:
    """Returns the content of the file. The serial number is derived from the content, which holds no time."""
    checkpoint = _checkpoint(manifest, origin)
    bundle = _bundle(manifest, origin, checkpoint)
    bom = Bom(serial_number=UUID(int=0))
    bom.metadata = BomMetaData(component=bundle, tools=ToolRepository(components=_tools()))
    files = [_file(f"bundle:{name}", name, entry) for name, entry in graph_files(manifest).items()]
    for component in (checkpoint, *files):
        bom.components.add(component)
    bom.register_dependency(bundle, [checkpoint, *files])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"], document["serialNumber"]
    document["metadata"]["component"]["modelCard"] = _model_card(origin, certificate)
    document["serialNumber"] = uuid5(NAMESPACE, json.dumps(document, sort_keys=True)).urn
    return (json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _bundle(manifest: Mapping[str, Any], origin: Origin, checkpoint: Component) -> Component:
    facts = {
        "target": manifest["target"],
        "opset": manifest["tools"]["opset"],
        **{f"precision:{stage}": precision for stage, precision in manifest["precision"].items()},
    }
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="bundle",
        name=manifest["name"],
        version=_version(manifest),
        description=f"ONNX graphs for ONNX Runtime: {stage_precisions(manifest)}",
        licenses=_licences(origin.licences),
        properties=[Property(name=f"blip2:{name}", value=value) for name, value in facts.items()],
        pedigree=Pedigree(ancestors=[_ancestor(checkpoint)]),
    )


def _checkpoint(manifest: Mapping[str, Any], origin: Origin) -> Component:
    source = manifest["checkpoint"]
    references = [_on_hub(origin.repository, source["revision"])] if origin.repository else []
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="checkpoint",
        name=origin.repository or source["id"],
        version=_version(manifest),
        licenses=_licences(origin.licences),
        external_references=references,
        components=[_file(f"checkpoint:{name}", name, entry) for name, entry in source["files"].items()],
        pedigree=Pedigree(ancestors=[_language_model(name) for name in origin.ancestors]) if origin.ancestors else None,
    )


def _language_model(name: str) -> Component:
    """Returns the language model that the checkpoint was trained around."""
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"ancestor:{name}",
        name=name,
        licenses=_licences((OPT_LICENCE,)),
        external_references=[_on_hub(name, None)],
    )


def _on_hub(repository: str, revision: str | None) -> ExternalReference:
    path = f"/tree/{revision}" if revision else ""
    return ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(f"{HUB}/{repository}{path}"))


def _ancestor(checkpoint: Component) -> Component:
    """Returns the checkpoint as an ancestor: the same model, named without its files, which are listed once."""
    return Component(
        type=checkpoint.type, bom_ref="ancestor:checkpoint", name=checkpoint.name, version=checkpoint.version
    )


def _file(reference: str, name: str, entry: Json) -> Component:
    return Component(
        type=ComponentType.FILE,
        bom_ref=reference,
        name=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry["sha256"])],
        properties=[Property(name="blip2:bytes", value=str(entry["bytes"]))],
    )


def _licences(licences: tuple[Licence, ...]) -> list[DisjunctiveLicense]:
    """Names a licence by its SPDX id where there is one, else by name."""
    return [
        DisjunctiveLicense(
            id=None if _is_outside_spdx(licence) else licence.spdx,
            name=licence.name if _is_outside_spdx(licence) else None,
            url=XsUri(licence.url) if licence.url else None,
        )
        for licence in licences
    ]


def _is_outside_spdx(licence: Licence) -> bool:
    return licence.spdx is None or licence.spdx.startswith("LicenseRef-")


def _tools() -> list[Component]:
    return [Component(type=ComponentType.APPLICATION, bom_ref="tool", name="blip2_export", version=__version__)]


def _version(manifest: Mapping[str, Any]) -> str | None:
    return manifest["checkpoint"]["revision"]


def _model_card(origin: Origin, certificate: Json | None) -> Json:
    card: Json = {
        "modelParameters": {
            "task": TASK,
            "architectureFamily": "transformer",
            "modelArchitecture": ARCHITECTURE,
            "inputs": [{"format": f"{field['name']}: {field['type']}"} for field in SIGNATURE["inputs"]],
            "outputs": [{"format": f"{field['name']}: {field['type']}"} for field in SIGNATURE["outputs"]],
        },
        "considerations": {
            "useCases": [*origin.uses, f"not for: {origin.not_for}"],
            "technicalLimitations": [_sentence(limit) for limit in origin.limits if not limit.is_ethical],
            "ethicalConsiderations": [
                *({"name": _sentence(limit)} for limit in origin.limits if limit.is_ethical),
                {"name": f"licences: {origin.licence_advice}"},
            ],
        },
    }
    if certificate:
        found = [{"type": name, "value": value} for name, value in metrics(certificate).items()]
        card["quantitativeAnalysis"] = {"performanceMetrics": found}
    return card


def _sentence(limit: Limit) -> str:
    return f"{limit.title}: {limit.text} ({limit.source})"
