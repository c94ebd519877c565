"""Collects the reference's results for every case, stage by stage, before the bundle is opened.

All images or cases go through one stage before the next is loaded, so that no more than one stage of the
reference is ever in memory. The results are small: about 4 MB per case, most of it logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from blip2_export.verification.beam_search import BeamAnswer
    from blip2_export.verification.phases import Phases
    from blip2_export.verification.reference import Reference
    from blip2_export.verification.workload import Workload


class ImageStages(NamedTuple):
    """The outputs of the image stages for one image, each [1, positions, width]."""

    image_embeds: np.ndarray
    query_output: np.ndarray
    image_prefix: np.ndarray


class GreedyAnswer(NamedTuple):
    """The tokens of one case, and the logits before each of them, f32 [tokens, vocab]."""

    token_ids: list[int]
    logits: np.ndarray


@dataclass(frozen=True)
class Expected:
    """Answers and beams are in the workload's order. The states after each layer, [layers, positions, hidden], are
    those of the workload's traced cases."""

    pixel_values: dict[Path, np.ndarray]
    stages: dict[Path, ImageStages]
    answers: list[GreedyAnswer]
    beams: list[BeamAnswer]
    vision_states: list[np.ndarray]
    decoder_states: list[np.ndarray]


def ask_reference(reference: Reference, workload: Workload, phases: Phases) -> Expected:
    """Runs the whole workload through the reference."""
    pixel_values = {path: reference.pixel_values(path) for path in workload.images}
    traced = [workload.cases[case].image for case in workload.traced]
    with phases.phase("reference, vision encoder"):
        images = phases.each(list(pixel_values.items()), "images")
        embeds = {path: reference.image_embeds(values) for path, values in images}
        vision_states = [reference.vision_layers(pixel_values[path]) for path in traced]
    with phases.phase("reference, Q-Former"):
        stages = {path: ImageStages(values, *reference.query(values)) for path, values in embeds.items()}
    prompted = [
        (stages[case.image].image_prefix, prompt, case.max_new_tokens)
        for case, prompt in zip(workload.cases, workload.prompts, strict=True)
    ]
    with phases.phase("reference, decoder"):
        answers = []
        for prefix, prompt, max_new_tokens in phases.each(prompted, "cases"):
            tokens = reference.greedy(prefix, prompt, max_new_tokens)
            answers.append(GreedyAnswer(tokens, reference.teacher_forced(prefix, prompt, tokens)))
        decoder_states = [
            reference.decoder_layers(*prompted[case][:2], answers[case].token_ids) for case in workload.traced
        ]
    with phases.phase("reference, beam search"):
        beams = []
        for case, options in phases.each(workload.searched, "answers"):
            prefix, prompt, max_new_tokens = prompted[case]
            beams.append(reference.beams(prefix, prompt, options, max_new_tokens)[0])
    reference.close()
    return Expected(pixel_values, stages, answers, beams, vision_states, decoder_states)
