"""Verifies a bundle against transformers, and writes the certificate, its page and golden answers."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from blip2_export import __version__
from blip2_export.bundle.folder import check_files, read_manifest, replace_files
from blip2_export.checkpoint.tensors import stage_of, tensor_shapes
from blip2_export.description.documents import documents
from blip2_export.description.names import DOCUMENTS
from blip2_export.description.parity_file import PAGE, PARITY
from blip2_export.errors import ExportError
from blip2_export.files import json_bytes
from blip2_export.graph.contract import STAGES
from blip2_export.hashing import file_entry
from blip2_export.inference.providers import EXECUTION_PROVIDERS, ON_CPU, Provider, probe, require
from blip2_export.progress import progress
from blip2_export.verification.cases import drawn_cases, read_cases
from blip2_export.verification.comparison import Comparer
from blip2_export.verification.expected import ask_reference
from blip2_export.verification.golden import FOLDER, choose, golden_files
from blip2_export.verification.memory import available_bytes, peak_resident_bytes
from blip2_export.verification.onnx_blip2 import OnnxBlip2
from blip2_export.verification.phases import Phases
from blip2_export.verification.reference import VERSIONS, Reference
from blip2_export.verification.report import page, table
from blip2_export.verification.thresholds import THRESHOLDS, checks
from blip2_export.verification.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blip2_export.verification.comparison import Comparison
    from blip2_export.verification.thresholds import Check
    from blip2_export.verification.workload import BeamPlan

Json = dict[str, Any]

# The libraries, the images and the activations, beside the weights of the stage in memory.
WORKING_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Where:
    """The provider that runs the bundle, and the torch device of the reference."""

    provider: Provider = ON_CPU
    reference_device: str = "cpu"


def verify(
    checkpoint: Path, bundle: Path, cases_file: Path | None, golden_count: int, beams: BeamPlan, where: Where
) -> bool:
    """Verifies, writes parity.json, parity.html and golden/, prints the table, and returns whether the bundle passed.

    Raises:
        ExportError: the bundle is damaged or was exported from another checkpoint, the cases cannot be read, or
            memory is too small, or the provider cannot be had.
    """
    require(where.provider)
    probe(where.provider)
    phases = Phases()
    manifest = read_manifest(bundle)
    with tempfile.TemporaryDirectory() as drawn:
        default_tokens = manifest["generation"]["max_new_tokens"]
        cases = read_cases(cases_file, default_tokens) if cases_file else drawn_cases(Path(drawn), default_tokens)
        _check_sources(checkpoint, manifest, _size)
        model = OnnxBlip2(bundle, provider=where.provider)
        reference = Reference(checkpoint, where.reference_device)
        workload = Workload.of(model, cases, beams)
        _check_memory(model, reference)
        with phases.phase("hashing bundle and checkpoint"):
            check_files(bundle, manifest)
            _check_sources(checkpoint, manifest, file_entry)
        expected = ask_reference(reference, workload, phases)
        comparison = Comparer(model, workload, expected, phases).run()
        return _certify(model, reference.description, comparison, phases, golden_count)


def _check_memory(model: OnnxBlip2, reference: Reference) -> None:
    """Refuses a run whose largest stage does not fit into memory."""
    available = available_bytes()
    stage, needed = max(_stage_bytes(model, reference).items(), key=lambda entry: entry[1])
    needed += WORKING_BYTES
    if available is not None and available < needed:
        raise ExportError(
            f"{model.folder}: verifying needs {needed / 1e9:.1f} GB of memory (for {stage}), "
            f"{available / 1e9:.1f} GB are free; end other programs or use a larger machine"
        )
    progress(f"needs about {needed / 1e9:.1f} GB of memory, most of it for {stage}")


def _stage_bytes(model: OnnxBlip2, reference: Reference) -> dict[str, int]:
    """Returns the memory of each stage of each side; no two of them are in memory at once."""
    needed = dict.fromkeys((f"{side}, {stage}" for side in ("the reference", "the bundle") for stage in STAGES), 0)
    for name, shape in tensor_shapes(reference.checkpoint.config).items():
        needed[f"the reference, {stage_of(name)}"] += 4 * math.prod(shape)
    for stage in STAGES:
        file, precision = model.manifest[stage]["file"], model.manifest["precision"][stage]
        stored = sum(entry["bytes"] for name, entry in model.manifest["files"].items() if name.startswith(file))
        # The CPU computes in f32 what is stored in f16.
        needed[f"the bundle, {stage}"] = stored * (2 if precision == "fp16" else 1)
    return needed


def _check_sources(checkpoint: Path, manifest: Json, entry: Callable[[Path], Json]) -> None:
    """Compares `entry` of each file that the bundle was exported from with the manifest."""
    for name, expected in manifest["checkpoint"]["files"].items():
        path = checkpoint / name
        if not path.is_file() or not entry(path).items() <= expected.items():
            raise ExportError(f"{path}: not the file this bundle was exported from; name its own checkpoint")


def _size(path: Path) -> Json:
    """Returns the size of a file, to compare before gigabytes are hashed."""
    return {"bytes": path.stat().st_size}


def _certify(model: OnnxBlip2, reference: str, comparison: Comparison, phases: Phases, golden_count: int) -> bool:
    found = checks(model.manifest["precision"], comparison, on_gpu=model.provider.is_gpu)
    certificate = _certificate(model, reference, comparison, found, phases)
    chosen = choose(comparison.answers, golden_count)
    if len(chosen) < golden_count:
        progress(f"only {len(chosen)} of {golden_count} golden answers: the other cases differ or were close")
    files = {
        PARITY: json_bytes(certificate),
        PAGE: page(certificate, comparison),
        **golden_files(chosen, reference),
    }
    files |= documents(model.manifest, certificate)
    replace_files(model.folder, (PARITY, PAGE, FOLDER, *DOCUMENTS), files)
    print(table(certificate))
    return certificate["passed"]


def _certificate(
    model: OnnxBlip2, reference: str, comparison: Comparison, found: Sequence[Check], phases: Phases
) -> Json:
    manifest = model.manifest
    missed = [check.sentence() for check in found if not check.passed]
    in_use = {check.precision for check in found}
    return {
        "schema_version": 1,
        "bundle": manifest["name"],
        "passed": not missed,
        "misses": missed,
        "reference": reference,
        "provider": EXECUTION_PROVIDERS[model.provider.name],
        "versions": {
            "blip2_export": __version__,
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            **VERSIONS,
        },
        "checkpoint": manifest["checkpoint"],
        "precision": manifest["precision"],
        "stages": {name: errors.report() for name, errors in comparison.stages.items()},
        "logits": comparison.logits.report(),
        "decoder_alone": comparison.decoder_alone.report(),
        "greedy": {
            "cases": len(comparison.cases),
            "equal_share": comparison.greedy_equal,
            "token_agreement": comparison.token_agreement,
        },
        "beam": _beam(comparison),
        "layers": {name: [layer.report() for layer in layers] for name, layers in comparison.layers.items()},
        "invariants": [invariant.report() for invariant in comparison.invariants],
        "thresholds": {name: asdict(limits) for name, limits in THRESHOLDS.items() if name in in_use},
        "checks": [check.report() for check in found],
        "cost": _cost(phases),
        "cases": comparison.cases,
    }


def _beam(comparison: Comparison) -> Json:
    return {
        "cases": len(comparison.beams),
        "equal_share": comparison.beam_equal,
        "token_agreement": comparison.beam_token_agreement,
        "score_error": comparison.beam_score_error,
        "answers": [pair.report() for pair in comparison.beams],
    }


def _cost(phases: Phases) -> Json:
    """Returns the cost of the verification. Resident memory counts pages of mapped files, which need not fit."""
    peaks = [phase.peak_anonymous_bytes for phase in phases.done if phase.peak_anonymous_bytes is not None]
    return {
        "seconds": round(sum(phase.seconds for phase in phases.done), 1),
        "peak_anonymous_bytes": max(peaks, default=None),
        "peak_resident_bytes": peak_resident_bytes(),
        "phases": [phase.report() for phase in phases.done],
    }
