"""Runs the cases through a bundle and measures its distance from the reference.

Stages are opened one at a time, used for all cases and closed, as for the reference.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blip2_export.verification.golden import Answer
from blip2_export.verification.invariants import decoder_invariants, image_invariants, noise
from blip2_export.verification.layer_errors import LayerError, decoder_layers, layer_errors, vision_layers
from blip2_export.verification.metrics import LogitsAgreement, TensorErrors, common_prefix, margin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from blip2_export.verification.beam_search import BeamAnswer, BeamOptions
    from blip2_export.verification.cases import Case
    from blip2_export.verification.expected import Expected, GreedyAnswer
    from blip2_export.verification.invariants import Invariant
    from blip2_export.verification.onnx_blip2 import OnnxBlip2
    from blip2_export.verification.phases import Phases
    from blip2_export.verification.workload import Workload

Json = dict[str, Any]
STAGE_OUTPUTS = ("image_embeds", "query_output", "image_prefix")


@dataclass(frozen=True)
class BeamPair:
    """The best answer of the bundle and of the reference to one case."""

    case: str
    options: BeamOptions
    answer: BeamAnswer
    reference: BeamAnswer

    @property
    def is_equal(self) -> bool:
        """Whether all tokens are the same."""
        return self.answer.token_ids == self.reference.token_ids

    def report(self) -> Json:
        """Returns the entry for parity.json."""
        return {
            "case": self.case,
            **self.options.report(),
            "reference_token_ids": self.reference.token_ids,
            "token_ids": self.answer.token_ids,
            "reference_score": self.reference.score,
            "score": self.answer.score,
            "equal": self.is_equal,
        }


@dataclass
class Comparison:
    """The measured differences over all cases.

    `logits` are those of the whole bundle, `decoder_alone` those of its decoder after the reference's image
    prefix: the difference is due to the stages before the decoder. The same goes for `layers`.
    """

    stages: dict[str, TensorErrors] = field(default_factory=lambda: {name: TensorErrors() for name in STAGE_OUTPUTS})
    logits: LogitsAgreement = field(default_factory=LogitsAgreement)
    decoder_alone: LogitsAgreement = field(default_factory=LogitsAgreement)
    layers: dict[str, list[LayerError]] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    cases: list[Json] = field(default_factory=list)
    beams: list[BeamPair] = field(default_factory=list)
    invariants: list[Invariant] = field(default_factory=list)

    @property
    def greedy_equal(self) -> float:
        """The share of cases with exactly the reference's tokens."""
        return sum(case["equal"] for case in self.cases) / len(self.cases)

    @property
    def token_agreement(self) -> float:
        """The share of the reference's tokens that the bundle gives before its answer parts from it."""
        return _agreement([(case["token_ids"], case["reference_token_ids"]) for case in self.cases])

    @property
    def beam_equal(self) -> float:
        """The share of the best beams with exactly the reference's tokens; 1 if there are none."""
        return sum(pair.is_equal for pair in self.beams) / len(self.beams) if self.beams else 1.0

    @property
    def beam_token_agreement(self) -> float:
        """As `token_agreement`, of the best beams; 1 if there are none."""
        return _agreement([(pair.answer.token_ids, pair.reference.token_ids) for pair in self.beams])

    @property
    def beam_score_error(self) -> float:
        """The largest difference between the scores of two best beams, as a share; 0 if there are none."""
        shares = (
            abs(pair.answer.score - pair.reference.score) / max(abs(pair.reference.score), 1e-6) for pair in self.beams
        )
        return max(shares, default=0.0)


def _agreement(pairs: Sequence[tuple[list[int], list[int]]]) -> float:
    """Returns the share of the second lists' tokens that the first lists share from the start; 1 if there are none."""
    if not pairs:
        return 1.0
    return sum(common_prefix(*pair) for pair in pairs) / sum(len(reference) for _, reference in pairs)


class Comparer:
    """Compares one bundle with the reference's results on a workload."""

    def __init__(self, model: OnnxBlip2, workload: Workload, expected: Expected, phases: Phases) -> None:
        self.model = model
        self.workload = workload
        self.expected = expected
        self.phases = phases
        self.result = Comparison()

    def run(self) -> Comparison:
        """Runs every stage, and encodes each image once."""
        prefixes, noise_prefix = self._image_stages()
        with self.phases.phase("bundle, decoder against itself"):
            self.result.invariants += decoder_invariants(self.model, noise_prefix)
        with self.phases.phase("bundle, decoder"):
            for number in self.phases.each(range(len(self.workload.cases)), "cases"):
                self._case(number, prefixes)
        with self.phases.phase("bundle, beam search"):
            searched = list(zip(self.workload.searched, self.expected.beams, strict=True))
            for (number, options), reference in self.phases.each(searched, "answers"):
                self._beams(number, prefixes, options, reference)
        self.model.close()
        with self.phases.phase("bundle, layer by layer"):
            self._vision_layers()
            self.model.close()
            self._decoder_layers(prefixes)
            self.model.close()
        return self.result

    def _image_stages(self) -> tuple[dict[Path, np.ndarray], np.ndarray]:
        """Compares the image stages. Returns the bundle's prefix of each image, and one made of noise."""
        prefixes = {}
        with self.phases.phase("bundle, vision encoder and Q-Former"):
            for path, pixel_values in self.phases.each(list(self.expected.pixel_values.items()), "images"):
                embeds = self.model.image_embeds(pixel_values)
                output, prefixes[path] = self.model.query(embeds)
                for name, actual in zip(STAGE_OUTPUTS, (embeds, output, prefixes[path]), strict=True):
                    self.result.stages[name].add(actual, getattr(self.expected.stages[path], name))
            self.result.invariants += image_invariants(self.model)
            noise_prefix = self.model.query(self.model.image_embeds(noise(self.model, 1)))[1]
        self.model.close()
        return prefixes, noise_prefix

    def _case(self, number: int, prefixes: dict[Path, np.ndarray]) -> None:
        case, prompt = self.workload.cases[number], self.workload.prompts[number]
        expected, prefix = self.expected.answers[number], prefixes[case.image]
        logits = self.model.teacher_forced(prefix, prompt, expected.token_ids)
        self.result.logits.add(logits, expected.logits)
        given = self.expected.stages[case.image].image_prefix
        alone = self.model.teacher_forced(given, prompt, expected.token_ids)
        self.result.decoder_alone.add(alone, expected.logits)
        tokens = self.model.greedy(prefix, prompt, case.max_new_tokens)
        text = self._text(tokens)
        # The two margins are of the same tokens only when the answers are equal; others are never chosen.
        smallest = min(margin(logits), margin(expected.logits))
        self.result.answers.append(Answer(case, prompt, tokens, text, smallest, tokens == expected.token_ids))
        self.result.cases.append(self._entry(case, tokens, expected, smallest))

    def _beams(
        self, number: int, prefixes: dict[Path, np.ndarray], options: BeamOptions, reference: BeamAnswer
    ) -> None:
        case, prompt = self.workload.cases[number], self.workload.prompts[number]
        answer = self.model.beams(prefixes[case.image], prompt, options, case.max_new_tokens)[0]
        self.result.beams.append(BeamPair(case.name, options, answer, reference))

    def _vision_layers(self) -> None:
        traced = [self.workload.cases[number].image for number in self.workload.traced]
        states = vision_layers(self.model, [self.expected.pixel_values[path] for path in traced])
        self.result.layers["vision_encoder"] = layer_errors(states, self.expected.vision_states)

    def _decoder_layers(self, prefixes: dict[Path, np.ndarray]) -> None:
        given = {path: stages.image_prefix for path, stages in self.expected.stages.items()}
        traced = [
            (prefix[self.workload.cases[number].image], self.workload.prompts[number], self.expected.answers[number])
            for prefix in (prefixes, given)
            for number in self.workload.traced
        ]
        states = decoder_layers(self.model, [(prefix, prompt, answer.token_ids) for prefix, prompt, answer in traced])
        count = len(self.workload.traced)
        self.result.layers["decoder"] = layer_errors(states[:count], self.expected.decoder_states)
        self.result.layers["decoder_alone"] = layer_errors(states[count:], self.expected.decoder_states)

    def _text(self, tokens: Sequence[int]) -> str:
        return self.model.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def _entry(self, case: Case, tokens: list[int], expected: GreedyAnswer, smallest_margin: float) -> Json:
        return {
            "name": case.name,
            "image": case.image.name,
            "image_sha256": hashlib.sha256(case.image.read_bytes()).hexdigest(),
            "text": case.text,
            "max_new_tokens": case.max_new_tokens,
            "reference_token_ids": expected.token_ids,
            "token_ids": tokens,
            "reference_answer": self._text(expected.token_ids),
            "answer": self._text(tokens),
            "equal": tokens == expected.token_ids,
            "smallest_margin": smallest_margin,
        }
