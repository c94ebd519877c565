"""The limits that a comparison misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blip2_export.graph.contract import STAGES
from blip2_export.verification.thresholds import checks

if TYPE_CHECKING:
    from blip2_export.verification.comparison import Comparison


def missed(comparison: Comparison, precision: str = "fp32") -> set[str]:
    """Returns the subjects that miss a limit, with every stage at one precision."""
    found = checks(dict.fromkeys(STAGES, precision), comparison)
    return {check.subject for check in found if not check.passed}
