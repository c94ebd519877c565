"""Locates errors in the network: compares the hidden state after every layer with the reference's.

The graphs are run a second time with their residuals as additional outputs. This keeps ONNX Runtime from fusing a
residual with the LayerNorm after it, and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blip2_export.graph.families import opt, vision_encoder
from blip2_export.inference.session import with_outputs
from blip2_export.inference.step import run_decoder, teacher_forced_step
from blip2_export.verification.metrics import cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnxruntime as ort

    from blip2_export.verification.onnx_blip2 import OnnxBlip2

Json = dict[str, Any]

# The tensors that leave a layer, as the graphs name them.
RESIDUALS = {
    "vision_encoder": f"{vision_encoder.ROOT}.encoder.layers.{{layer}}.mlp/Residual",
    "decoder": f"{opt.ROOT}.layers.{{layer}}/Residual",
}


@dataclass(frozen=True)
class LayerError:
    """The distance of one layer's output: its root mean square in units of the reference's, and 1 - cosine."""

    relative_rms: float
    cosine_distance: float

    def report(self) -> Json:
        """Returns the entry for parity.json."""
        return {"relative_rms": self.relative_rms, "cosine_distance": self.cosine_distance}


def layer_errors(actual: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> list[LayerError]:
    """Returns the errors of hidden states [layers, positions, hidden], over one pair of arrays or several."""
    return [
        _error(np.concatenate(found), np.concatenate(expected))
        for found, expected in zip(zip(*actual, strict=True), zip(*reference, strict=True), strict=True)
    ]


def _error(actual: np.ndarray, reference: np.ndarray) -> LayerError:
    actual, reference = actual.astype(np.float64), reference.astype(np.float64)
    if actual.shape != reference.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {reference.shape}")
    relative = np.sqrt(((actual - reference) ** 2).mean() / max((reference**2).mean(), 1e-30))
    # Rounding can carry a cosine a little beyond 1.
    distance = max(1 - cosine(actual, reference).mean(), 0.0)
    return LayerError(*(float(np.nan_to_num(value, nan=np.inf)) for value in (relative, distance)))


def traced_session(model: OnnxBlip2, stage: str) -> tuple[ort.InferenceSession, list[str]]:
    """Opens a stage with the hidden state after every layer as outputs, and returns the session and their names."""
    path = model.graph(stage)
    names = [RESIDUALS[stage].format(layer=layer) for layer in range(model.manifest[stage]["num_layers"])]
    return model.session(stage, with_outputs(path, names)), names


def vision_layers(model: OnnxBlip2, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the states f32 [layers, num_tokens, hidden] of images, pixel_values [1, 3, height, width]."""
    session, names = traced_session(model, "vision_encoder")
    return [_stacked(session.run(names, {"pixel_values": pixel_values})) for pixel_values in images]


def decoder_layers(
    model: OnnxBlip2, passes: Sequence[tuple[np.ndarray, Sequence[int], Sequence[int]]]
) -> list[np.ndarray]:
    """Returns the states f32 [layers, positions, hidden] of teacher-forced passes: image prefix, prompt, answer."""
    session, names = traced_session(model, "decoder")
    states = []
    for image_prefix, prompt, answer in passes:
        step = teacher_forced_step(image_prefix, prompt, answer)
        cache = model.cache(1, image_prefix.shape[1] + len(step.input_ids[0]))
        states.append(_stacked(run_decoder(session, cache, step, names)))
    return states


def _stacked(states: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the residuals of one row, [positions, hidden] each; graphs for GPUs keep the row as an axis."""
    return np.stack([state.astype(np.float32).reshape(-1, state.shape[-1]) for state in states])
