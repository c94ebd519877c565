"""The workload of both sides: the cases with their prompts, and which of them also run beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blip2_export.errors import ExportError
from blip2_export.verification.beam_search import BeamOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blip2_export.verification.cases import Case
    from blip2_export.verification.onnx_blip2 import OnnxBlip2

# Length penalty and early stopping. 1 is the default of transformers, -1 that of the BLIP-2 paper, 0 that of the
# code published with it; one of them stops early, because that is another way through the search.
BEAM_COMBINATIONS = ((1.0, False), (-1.0, False), (0.0, True))


@dataclass(frozen=True)
class BeamPlan:
    """The extent of beam search: the first `cases` cases with `num_beams` beams each, 0 for none."""

    num_beams: int = 5
    cases: int = 4

    @property
    def options(self) -> list[BeamOptions]:
        """Every combination that is run."""
        if not self.num_beams or not self.cases:
            return []
        return [BeamOptions(self.num_beams, penalty, early) for penalty, early in BEAM_COMBINATIONS]


@dataclass(frozen=True)
class Workload:
    """The cases with the ids of their prompts."""

    cases: Sequence[Case]
    prompts: Sequence[list[int]]
    beams: BeamPlan

    @classmethod
    def of(cls, model: OnnxBlip2, cases: Sequence[Case], beams: BeamPlan) -> Workload:
        """Returns the workload for a bundle, whose tokenizer serves both sides.

        Raises:
            ExportError: a case is longer than the model's positions.
        """
        prompts = [model.prompt_ids(case.text) for case in cases]
        limit, prefix = model.decoder_info["max_positions"], model.manifest["qformer"]["num_query_tokens"]
        for case, prompt in zip(cases, prompts, strict=True):
            length = prefix + len(prompt) + case.max_new_tokens
            if length > limit:
                raise ExportError(
                    f"case {case.name}: image, prompt and new tokens take {length} positions, "
                    f"the model has {limit}; shorten the text or lower max_new_tokens"
                )
        return cls(cases, prompts, beams)

    @property
    def images(self) -> list[Path]:
        """Every image once."""
        return list(dict.fromkeys(case.image for case in self.cases))

    @property
    def searched(self) -> list[tuple[int, BeamOptions]]:
        """The cases that beam search answers too, each with its options."""
        return [
            (case, options) for case in range(len(self.cases))[: self.beams.cases] for options in self.beams.options
        ]

    @property
    def traced(self) -> list[int]:
        """The cases whose every layer is compared: the first and the last, since more add nothing."""
        return sorted({0, len(self.cases) - 1})
