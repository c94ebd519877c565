"""Implements beam search as in transformers: arithmetic on logits, with the model as one function.

The runtime has its own; Python uses this one to verify a bundle. Scores are f32 as in transformers, so equal logits
give equal answers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    # Which row each new row continues, and with which token -> logits f32 [rows, vocab].
    Advance = Callable[[Sequence[int], Sequence[int]], np.ndarray]

Json = dict[str, Any]


@dataclass(frozen=True)
class BeamOptions:
    """Options of transformers' `generate`, by their names; `early_stopping` is False, True or "never"."""

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def report(self) -> Json:
        """Returns the entry for parity.json."""
        return asdict(self)


class BeamAnswer(NamedTuple):
    """New tokens, the end token included if it came, and their score: log-probability / length^length_penalty."""

    token_ids: list[int]
    score: float


class _Beam(NamedTuple):
    """A row that may go on: the row it continues, its new tokens, the f32 sum of their log-probabilities."""

    parent: int
    token_ids: list[int]
    score: np.float32


def beam_search(
    logits: np.ndarray, advance: Advance, options: BeamOptions, max_new_tokens: int, eos_token_id: int
) -> list[BeamAnswer]:
    """Returns the `num_beams` best answers to one prompt, best first.

    `logits` f32 [1, vocab] are those of the prompt's last position; `advance` appends one token to every row.
    """
    count = options.num_beams
    beams = [_Beam(0, [], np.float32(0))]
    finished: list[BeamAnswer] = []
    for length in range(1, max_new_tokens + 1):
        candidates = _extended(beams, logits, 2 * count)
        ended = [beam.token_ids[-1] == eos_token_id or length == max_new_tokens for beam in candidates]
        # An ended candidate beyond the first `count` is lost: it neither finishes nor continues.
        for beam in (beam for beam, has_ended in zip(candidates[:count], ended, strict=False) if has_ended):
            finished.append(BeamAnswer(beam.token_ids, float(beam.score / length**options.length_penalty)))
        finished = sorted(finished, key=lambda answer: -answer.score)[:count]
        beams = [beam for beam, has_ended in zip(candidates, ended, strict=True) if not has_ended][:count]
        if not beams or (len(finished) == count and _is_settled(options, finished, beams, length, max_new_tokens)):
            break
        logits = advance([beam.parent for beam in beams], [beam.token_ids[-1] for beam in beams])
    return finished


def _extended(beams: Sequence[_Beam], logits: np.ndarray, count: int) -> list[_Beam]:
    """Returns the `count` best of all beams with all next tokens, best first, lower beams and tokens first on a tie."""
    scores = np.array([beam.score for beam in beams], np.float32)[:, None] + _log_softmax(logits)
    flat = scores.reshape(-1)
    best = np.argpartition(-flat, count - 1)[:count]
    best = best[np.lexsort((best, -flat[best]))]
    places = zip(*np.unravel_index(best, scores.shape), strict=True)
    return [_Beam(int(row), [*beams[row].token_ids, int(token)], scores[row, token]) for row, token in places]


def _is_settled(
    options: BeamOptions, finished: Sequence[BeamAnswer], beams: Sequence[_Beam], length: int, max_new_tokens: int
) -> bool:
    """Returns whether the best running beam counts as unable to enter the full list of finished answers.

    Unless `early_stopping` is "never", transformers takes the present length for the final one, a heuristic.
    """
    if options.early_stopping is True:
        return True
    is_bounded = options.early_stopping == "never" and options.length_penalty > 0
    bound = beams[0].score / (max_new_tokens if is_bounded else length) ** options.length_penalty
    return bool(bound <= finished[-1].score)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log-probabilities along the last axis, in f32."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
