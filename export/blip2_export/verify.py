"""The verify command: proves a bundle against transformers, writes the certificate and golden answers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from blip2_export import __version__
from blip2_export.bundle import check_files, json_bytes, read_manifest, replace_files
from blip2_export.cases import drawn_cases, read_cases
from blip2_export.checkpoint import file_entry
from blip2_export.comparison import Comparer
from blip2_export.errors import ExportError
from blip2_export.export import progress
from blip2_export.golden import FOLDER, choose, golden_files
from blip2_export.invariants import check_invariants
from blip2_export.onnx_blip2 import PROVIDER, OnnxBlip2
from blip2_export.reference import DESCRIPTION, VERSIONS, Reference
from blip2_export.thresholds import THRESHOLDS, misses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.cases import Case
    from blip2_export.comparison import Comparison
    from blip2_export.invariants import Invariant
    from blip2_export.thresholds import Thresholds

Json = dict[str, Any]

PARITY = "parity.json"


def verify(checkpoint: Path, bundle: Path, cases_file: Path | None, golden_count: int) -> bool:
    """Verifies, writes parity.json and golden/, prints the table, and returns whether the bundle passed.

    Raises: ExportError: the bundle is damaged or was exported from another checkpoint, or the cases cannot be
    read.
    """
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    _check_provenance(checkpoint, manifest)
    with tempfile.TemporaryDirectory() as drawn:
        default_tokens = manifest["generation"]["max_new_tokens"]
        cases = read_cases(cases_file, default_tokens) if cases_file else drawn_cases(Path(drawn), default_tokens)
        return _verify_cases(checkpoint, bundle, manifest, cases, golden_count)


def _verify_cases(checkpoint: Path, bundle: Path, manifest: Json, cases: Sequence[Case], golden_count: int) -> bool:
    model = OnnxBlip2(bundle)
    progress("checking the bundle against itself")
    invariants = check_invariants(model)
    progress("loading the reference")
    comparison = Comparer(model, Reference(checkpoint)).run(cases, progress)
    limits = THRESHOLDS[manifest["precision"]["decoder"]]
    missed = misses(limits, comparison, invariants)
    certificate = _certificate(manifest, comparison, invariants, limits, missed)
    chosen = choose(comparison.answers, golden_count)
    if len(chosen) < golden_count:
        progress(f"only {len(chosen)} of {golden_count} golden answers: the other cases differ or were close")
    files = {PARITY: json_bytes(certificate), **golden_files(chosen, DESCRIPTION)}
    replace_files(bundle, (PARITY, FOLDER), files)
    print(_table(certificate))
    return not missed


def _check_provenance(checkpoint: Path, manifest: Json) -> None:
    for name, expected in manifest["checkpoint"]["files"].items():
        path = checkpoint / name
        if not path.is_file() or file_entry(path) != expected:
            raise ExportError(f"{path}: is not the file this bundle was exported from; name its own checkpoint")


def _certificate(
    manifest: Json,
    comparison: Comparison,
    invariants: Sequence[Invariant],
    limits: Thresholds,
    missed: Sequence[str],
) -> Json:
    return {
        "schema_version": 1,
        "passed": not missed,
        "misses": list(missed),
        "reference": DESCRIPTION,
        "provider": PROVIDER,
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
        "greedy": {
            "cases": len(comparison.cases),
            "equal_share": comparison.greedy_equal,
            "token_agreement": comparison.token_agreement,
        },
        "invariants": [invariant.report() for invariant in invariants],
        "thresholds": limits.report(),
        "cases": comparison.cases,
    }


def _table(certificate: Json) -> str:
    """The certificate for people."""
    lines = [f"{'stage':<16}{'max error':>12}{'mean error':>12}{'relative':>12}{'cosine':>12}"]
    for name, row in {**certificate["stages"], "logits": certificate["logits"]}.items():
        errors = "".join(f"{row[key]:>12.2e}" for key in ("max_abs_error", "mean_abs_error", "relative_error"))
        lines.append(f"{name:<16}{errors}{row['mean_cosine']:>12.8f}")
    logits, greedy = certificate["logits"], certificate["greedy"]
    lines.append(
        f"logits: top-1 agreement {logits['top1_agreement']:.4f} of {logits['positions']} positions, "
        f"KL mean {logits['kl_mean']:.1e}, max {logits['kl_max']:.1e}"
    )
    lines.append(
        f"greedy: {greedy['equal_share']:.4f} of {greedy['cases']} answers equal, "
        f"token agreement {greedy['token_agreement']:.4f}"
    )
    for invariant in certificate["invariants"]:
        found = "bit-equal" if invariant["bit_equal"] else f"relative error {invariant['relative_error']:.1e}"
        lines.append(f"{invariant['name']}: {found}")
    lines += [f"MISSED  {miss}" for miss in certificate["misses"]]
    lines.append("passed" if certificate["passed"] else "FAILED")
    return "\n".join(lines)
