"""Holds a bundle to the limits of its precision.

Stages may differ in precision. An output is held to the limits of the worst precision on its way: `image_prefix`
to that of vision encoder and Q-Former, `logits` to that of all stages, `decoder_alone` to the decoder's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blip2_export.graph.contract import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.verification.comparison import Comparison
    from blip2_export.verification.invariants import Invariant
    from blip2_export.verification.metrics import LogitsAgreement

Json = dict[str, Any]


@dataclass(frozen=True)
class Thresholds:
    """Limits; None leaves a measure without one (it is reported all the same).

    Relative errors are in units of the largest reference value, cosines are means over positions, divergences
    means over positions in nats, agreements shares of positions, `*_equal` shares of answers.
    """

    stage_relative_error: float | None
    stage_cosine: float
    logits_relative_error: float | None
    logits_cosine: float
    kl_mean: float
    top1_agreement: float
    greedy_equal: float | None
    beam_equal: float | None
    invariant_relative_error: float
    server_path_bit_equal: bool


# From the best to the worst. The limits are for trained weights, whose errors are small beside the distance between
# the most likely tokens. The tiny trained model keeps all of them with room to spare. Random weights of the real
# size, where every next token is a near tie, keep those of fp32 and miss those of the logits in int8 and int4:
# cosine 0.988 and 0.930, KL 0.10 and 0.61, top-1 agreement 0.67 and 0.33.
THRESHOLDS = {
    # Only the order of summation differs: a relative error of 2e-6 in the tiny model and of 3e-6 at the real size, and
    # KL 4e-11. Greedy answers and beams may differ at a tie alone.
    "fp32": Thresholds(
        stage_relative_error=1e-3,
        stage_cosine=0.99999,
        logits_relative_error=1e-3,
        logits_cosine=0.99999,
        kl_mean=1e-6,
        top1_agreement=1.0,
        greedy_equal=1.0,
        beam_equal=1.0,
        invariant_relative_error=1e-4,
        server_path_bit_equal=False,
    ),
    # Activations carry 11 bits. The tiny model: cosine 0.9999999, KL 5e-8; errors grow with the root of the number of
    # layers, of which the real model has ten times as many.
    "fp16": Thresholds(
        stage_relative_error=None,
        stage_cosine=0.9999,
        logits_relative_error=None,
        logits_cosine=0.9999,
        kl_mean=1e-3,
        top1_agreement=0.99,
        greedy_equal=None,
        beam_equal=None,
        invariant_relative_error=1e-2,
        server_path_bit_equal=False,
    ),
    # The tiny model: cosine 0.99998, KL 3e-5, top-1 agreement 99.9 %; 8 bits are published as nearly free. The encoder
    # with random weights of the real size, outliers included: 0.994.
    "int8": Thresholds(
        stage_relative_error=None,
        stage_cosine=0.99,
        logits_relative_error=None,
        logits_cosine=0.999,
        kl_mean=1e-2,
        top1_agreement=0.99,
        greedy_equal=None,
        beam_equal=None,
        # Where another order of summation moves a value over a rounding boundary, one 8-bit step remains.
        invariant_relative_error=2e-2,
        server_path_bit_equal=True,
    ),
    # The tiny model: cosine 0.9999, KL 1e-3. On text, 4-bit weights raise the perplexity of OPT-2.7b by 0.03 nats when
    # rounded well (GPTQ), by 0.3 when rounded plainly (published, WikiText-2): the limit lies between.
    "int4": Thresholds(
        stage_relative_error=None,
        stage_cosine=0.99,
        logits_relative_error=None,
        logits_cosine=0.98,
        kl_mean=0.1,
        top1_agreement=0.9,
        greedy_equal=None,
        beam_equal=None,
        invariant_relative_error=2e-2,
        server_path_bit_equal=False,
    ),
}
# The stages that an output has passed through.
PASSED = {
    "image_embeds": STAGES[:1],
    "query_output": STAGES[:2],
    "image_prefix": STAGES[:2],
    "logits": STAGES,
    "decoder_alone": ("decoder",),
}


def worst_precision(precision: Json, stages: Sequence[str] = STAGES) -> str:
    """Returns the worst of some stages' precisions; `precision` is the manifest's."""
    return max((precision[stage] for stage in stages), key=list(THRESHOLDS).index)


@dataclass(frozen=True)
class Check:
    """One measured value beside its limit, both shown in the same way."""

    subject: str
    measure: str
    value: float
    limit: float
    precision: str
    is_upper: bool = False

    @property
    def passed(self) -> bool:
        """Whether the limit is kept; a NaN keeps none."""
        return self.value <= self.limit if self.is_upper else self.value >= self.limit

    def sentence(self) -> str:
        """Returns the sentence about a missed limit."""
        value = f"{self.value:.1e}" if self.is_upper else f"{self.value:.6f}"
        sign = ">" if self.is_upper else "<"
        return f"{self.subject}: {self.measure} {value} {sign} {self.limit:g} ({self.precision})"

    def report(self) -> Json:
        """Returns the entry for parity.json."""
        return {
            "subject": self.subject,
            "measure": self.measure,
            "value": self.value,
            "limit": self.limit,
            "precision": self.precision,
            "passed": self.passed,
        }


def checks(precision: Json, comparison: Comparison, *, on_gpu: bool = False) -> list[Check]:
    """Returns every measure that has a limit; `precision` is the manifest's.

    A GPU promises no equal bits: another number of rows may get another kernel, with another order of summation.
    """
    found: list[Check | None] = []
    for name, errors in comparison.stages.items():
        worst, limits = _limits(precision, PASSED[name])
        found.append(Check(name, "cosine", errors.mean_cosine, limits.stage_cosine, worst))
        found.append(_upper(name, "relative error", errors.relative, limits.stage_relative_error, worst))
    for name in ("logits", "decoder_alone"):
        found += _logits_checks(name, getattr(comparison, name), *_limits(precision, PASSED[name]))
    worst, limits = _limits(precision, STAGES)
    if limits.greedy_equal is not None:
        found.append(Check("greedy answers", "equal", comparison.greedy_equal, limits.greedy_equal, worst))
    if limits.beam_equal is not None:
        found.append(Check("beam search", "equal", comparison.beam_equal, limits.beam_equal, worst))
    for invariant in comparison.invariants:
        worst, limits = _limits(precision, invariant.stages)
        limits = replace(limits, server_path_bit_equal=limits.server_path_bit_equal and not on_gpu)
        found.append(_invariant_check(invariant, worst, limits))
    return [check for check in found if check is not None]


def _limits(precision: Json, stages: Sequence[str]) -> tuple[str, Thresholds]:
    worst = worst_precision(precision, stages)
    return worst, THRESHOLDS[worst]


def _upper(subject: str, measure: str, value: float, limit: float | None, precision: str) -> Check | None:
    return None if limit is None else Check(subject, measure, value, limit, precision, is_upper=True)


def _logits_checks(name: str, logits: LogitsAgreement, worst: str, limits: Thresholds) -> list[Check | None]:
    return [
        Check(name, "cosine", logits.errors.mean_cosine, limits.logits_cosine, worst),
        Check(name, "top-1 agreement", logits.top1_agreement, limits.top1_agreement, worst),
        _upper(name, "mean KL", logits.kl_mean, limits.kl_mean, worst),
        _upper(name, "relative error", logits.errors.relative, limits.logits_relative_error, worst),
    ]


def _invariant_check(invariant: Invariant, worst: str, limits: Thresholds) -> Check | None:
    """Checks equality to the last bit where it is promised, closeness elsewhere."""
    if limits.server_path_bit_equal and invariant.is_server_path:
        return _upper(invariant.name, "bits differ, relative error", _unless_equal(invariant), 0.0, worst)
    limit = limits.invariant_relative_error
    return _upper(invariant.name, "relative error", invariant.relative_error, limit, worst)


def _unless_equal(invariant: Invariant) -> float:
    """Returns the error: 0 for bit-equal values only, since other relative errors may round to 0."""
    return 0.0 if invariant.bit_equal else max(invariant.relative_error, 1e-30)
