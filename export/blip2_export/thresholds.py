"""What a bundle must reach to pass, by precision, and the list of what it misses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.comparison import Comparison
    from blip2_export.invariants import Invariant

Json = dict[str, Any]


@dataclass(frozen=True)
class Thresholds:
    """Limits; None leaves a measure without one (it is reported all the same).

    Relative errors are in units of the largest reference value, cosines are means over positions.
    """

    stage_relative_error: float | None
    stage_cosine: float
    logits_relative_error: float | None
    logits_cosine: float
    top1_agreement: float
    greedy_equal: float | None
    invariant_relative_error: float
    server_path_bit_equal: bool

    def report(self) -> Json:
        """The entry for parity.json."""
        return asdict(self)


THRESHOLDS = {
    "fp32": Thresholds(
        stage_relative_error=1e-3,
        stage_cosine=0.99999,
        logits_relative_error=1e-3,
        logits_cosine=0.99999,
        top1_agreement=1.0,
        greedy_equal=1.0,
        invariant_relative_error=1e-4,
        server_path_bit_equal=False,
    ),
    "int8": Thresholds(
        stage_relative_error=None,
        stage_cosine=0.99,
        logits_relative_error=None,
        logits_cosine=0.999,
        top1_agreement=0.99,
        greedy_equal=None,
        # Where another order of summation moves a value over a rounding boundary, one 8-bit step remains.
        invariant_relative_error=2e-2,
        server_path_bit_equal=True,
    ),
}


def misses(limits: Thresholds, comparison: Comparison, invariants: Sequence[Invariant]) -> list[str]:
    """Every limit that is not kept, as a sentence."""
    found = [*_stage_misses(limits, comparison), *_answer_misses(limits, comparison)]
    for invariant in invariants:
        if not invariant.relative_error <= limits.invariant_relative_error:
            found.append(f"{invariant.name}: relative error {invariant.relative_error:.1e}")
        elif limits.server_path_bit_equal and invariant.is_server_path and not invariant.bit_equal:
            found.append(f"{invariant.name}: not equal to the last bit")
    return found


def _stage_misses(limits: Thresholds, comparison: Comparison) -> list[str]:
    found = []
    for name, errors in comparison.stages.items():
        if not errors.mean_cosine >= limits.stage_cosine:
            found.append(f"{name}: cosine {errors.mean_cosine:.6f} < {limits.stage_cosine}")
        if limits.stage_relative_error is not None and not errors.relative <= limits.stage_relative_error:
            found.append(f"{name}: relative error {errors.relative:.1e} > {limits.stage_relative_error}")
    return found


def _answer_misses(limits: Thresholds, comparison: Comparison) -> list[str]:
    found, logits = [], comparison.logits
    if not logits.errors.mean_cosine >= limits.logits_cosine:
        found.append(f"logits: cosine {logits.errors.mean_cosine:.6f} < {limits.logits_cosine}")
    if limits.logits_relative_error is not None and not logits.errors.relative <= limits.logits_relative_error:
        found.append(f"logits: relative error {logits.errors.relative:.1e} > {limits.logits_relative_error}")
    if not logits.top1_agreement >= limits.top1_agreement:
        found.append(f"logits: top-1 agreement {logits.top1_agreement:.4f} < {limits.top1_agreement}")
    if limits.greedy_equal is not None and not comparison.greedy_equal >= limits.greedy_equal:
        found.append(f"greedy answers: {comparison.greedy_equal:.4f} equal < {limits.greedy_equal}")
    return found
