"""Compares a bundle with itself: properties that a server relies on and transformers cannot tell.

Rows of unequal length in one batch equal each row alone, a continued prefix equals the whole pass, and memory
beyond a row's length does not matter (every KV buffer starts as NaN). Shapes come from `contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blip2_export.graph.contract import DECODER_CHECK_AT, IMAGE_CHECK_AT
from blip2_export.inference.step import Step
from blip2_export.verification.metrics import TensorErrors

if TYPE_CHECKING:
    from blip2_export.graph.contract import Ragged
    from blip2_export.verification.onnx_blip2 import OnnxBlip2

Json = dict[str, Any]

SLOT_LENGTHS = (4, 11, 1, 7, 2)
NOISE_SEED = 1


@dataclass(frozen=True)
class Invariant:
    """One comparison of the bundle with itself; the error is relative to the largest value.

    `is_server_path` marks what a server does all the time: in int8 that must be equal to the last bit. `stages` are
    those whose precision decides how equal it can be.
    """

    name: str
    relative_error: float
    bit_equal: bool
    is_server_path: bool = False
    stages: tuple[str, ...] = ("decoder",)

    def report(self) -> Json:
        """Returns the entry for parity.json."""
        return {"name": self.name, "relative_error": self.relative_error, "bit_equal": self.bit_equal}


def check_invariants(model: OnnxBlip2) -> list[Invariant]:
    """Runs every check, on noise instead of images."""
    prefix = model.query(model.image_embeds(noise(model, 1)))[1]
    return [*image_invariants(model), *decoder_invariants(model, prefix)]


def noise(model: OnnxBlip2, count: int) -> np.ndarray:
    """Returns seeded noise: f32 [count, 3, height, width]."""
    image = model.manifest["image"]
    shape = (count, 3, image["height"], image["width"])
    return np.random.default_rng(NOISE_SEED).standard_normal(shape).astype(np.float32)


def image_invariants(model: OnnxBlip2) -> list[Invariant]:
    """Returns the checks of vision encoder and Q-Former."""
    pixel_values = noise(model, max(IMAGE_CHECK_AT))
    return [_image_batch(model, pixel_values[:count]) for count in IMAGE_CHECK_AT if count > 1]


def decoder_invariants(model: OnnxBlip2, prefix: np.ndarray) -> list[Invariant]:
    """Returns the checks of the decoder, after one image prefix [1, positions, hidden]."""
    found = [_ragged(model, prefix, shape) for shape in DECODER_CHECK_AT]
    return [*found, _slots(model, prefix), _continuation(model, prefix), _logits_index(model, prefix)]


def _compare(name: str, actual: np.ndarray, expected: np.ndarray, *, is_server_path: bool = False) -> Invariant:
    errors = TensorErrors()
    errors.add(actual, expected)
    return Invariant(name, errors.relative, bool(np.array_equal(actual, expected)), is_server_path)


def _image_batch(model: OnnxBlip2, pixel_values: np.ndarray) -> Invariant:
    together = model.query(model.image_embeds(pixel_values))[1]
    alone = [model.query(model.image_embeds(image[None]))[1] for image in pixel_values]
    name = f"{len(alone)} pictures in one batch equal each alone"
    found = _compare(name, together, np.concatenate(alone), is_server_path=True)
    return replace(found, stages=("vision_encoder", "qformer"))


def random_prompt(model: OnnxBlip2, length: int, seed: int) -> list[int]:
    """Returns the beginning-of-text id and other ids, so that rows of any length can be made."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, model.decoder_info["vocab_size"], length - 1)
    return [model.manifest["tokenizer"]["bos_token_id"], *ids.tolist()]


def _run_rows(model: OnnxBlip2, prefix: np.ndarray, prompts: list[list[int]], steps: int) -> np.ndarray:
    """Prefills and decodes `steps` tokens, all rows together -> logits [steps + 1, rows, vocab].

    The rows are fed given tokens, not their own, because a near tie would make them diverge.
    """
    rows, positions = len(prompts), prefix.shape[1]
    lengths = [positions + len(prompt) for prompt in prompts]
    cache = model.cache(rows, max(lengths) + steps + 5)
    logits = [model.prefill(cache, np.repeat(prefix, rows, axis=0), prompts)]
    for step in range(steps):
        tokens = [prompt[(step + 1) % len(prompt)] for prompt in prompts]
        logits.append(model.decode(cache, tokens, [length + step for length in lengths]))
    return np.stack(logits)


def _ragged(model: OnnxBlip2, prefix: np.ndarray, shape: Ragged) -> Invariant:
    prompts = [random_prompt(model, length, seed) for seed, length in enumerate(shape.text_lengths)]
    together = _run_rows(model, prefix, prompts, shape.decode_steps)
    alone = [_run_rows(model, prefix, [prompt], shape.decode_steps) for prompt in prompts]
    lengths = ", ".join(str(length) for length in shape.text_lengths)
    name = f"rows of {lengths} tokens, prefilled and decoded together, equal each alone"
    return _compare(name, together, np.concatenate(alone, axis=1))


def _slots(model: OnnxBlip2, prefix: np.ndarray) -> Invariant:
    """Checks rows that are prefilled one by one into slots and decoded together while rows leave, as in a server."""
    prompts = [random_prompt(model, length, length) for length in SLOT_LENGTHS]
    rows, max_len = len(prompts), prefix.shape[1] + max(SLOT_LENGTHS) + len(prompts)
    shared = model.cache(rows, max_len)
    slots = [model.cache(1, max_len) for _ in prompts]
    for row, prompt in enumerate(prompts):
        model.prefill(slots[row], prefix, [prompt])
        shared.store_row(row, slots[row])
    together, alone = [], []
    for step in range(rows):
        tokens = [prompt[step % len(prompt)] for prompt in prompts[: rows - step]]
        starts = [prefix.shape[1] + len(prompt) + step for prompt in prompts[: rows - step]]
        together.append(model.decode(shared, tokens, starts))
        alone += [model.decode(slots[row], [tokens[row]], [starts[row]]) for row in range(rows - step)]
    name = f"{rows} slots decoded together, one fewer each step, equal each alone"
    return _compare(name, np.concatenate(together), np.concatenate(alone), is_server_path=True)


def _continuation(model: OnnxBlip2, prefix: np.ndarray) -> Invariant:
    """Checks a prompt in two runs: image and beginning-of-text first, then the rest."""
    prompt = random_prompt(model, 12, 1)
    length = prefix.shape[1] + len(prompt)
    index = np.arange(prefix.shape[1] + 1, length, dtype=np.int64)[None]
    whole = model.step(model.cache(1, length), Step(prefix, [prompt], [0], index))
    cache = model.cache(1, length + 3)
    model.prefill(cache, prefix, [prompt[:1]])
    rest = np.arange(len(prompt) - 1, dtype=np.int64)[None]
    continued = model.step(cache, Step(model.no_prefix(1), [prompt[1:]], [prefix.shape[1] + 1], rest))
    return _compare("a continued prefix equals the whole pass", continued, whole)


def _logits_index(model: OnnxBlip2, prefix: np.ndarray) -> Invariant:
    """Checks that several requested positions have the logits of each requested alone."""
    prompt = random_prompt(model, 6, 2)
    length = prefix.shape[1] + len(prompt)
    wanted = [length - 1, 0, prefix.shape[1], length - 1]
    at_once = model.step(model.cache(1, length), Step(prefix, [prompt], [0], np.array([wanted])))
    alone = [model.step(model.cache(1, length), Step(prefix, [prompt], [0], np.array([[at]]))) for at in wanted]
    return _compare("several logits positions equal each alone", at_once, np.concatenate(alone, axis=1))
