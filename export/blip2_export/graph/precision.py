"""Resolves `--target`, `--precision` and the overrides to a precision for each stage.

The Q-Former, the query tokens and the language projection are small, bear few bits badly, and stay in f32 on
every target. On GPUs the encoder is f16, and 8 and 4 bits are those of the decoder's weights alone. On the CPU
the encoder of an int4 bundle is int8: four bits save half a gigabyte there and make the encoder slower.
"""

from __future__ import annotations

from dataclasses import dataclass

from blip2_export.errors import ExportError

TARGETS = ("cpu", "cuda", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8", "int4")
DEFAULT_PRECISION = {"cpu": "int8", "cuda": "fp16", "tensorrt": "fp16"}


@dataclass(frozen=True)
class StagePrecisions:
    """The precision of each stage."""

    vision_encoder: str
    qformer: str
    decoder: str


@dataclass(frozen=True)
class Choice:
    """The choices of a target: the stages of each `--precision`, and the precisions of a single stage."""

    presets: dict[str, StagePrecisions]
    vision_encoder: tuple[str, ...]
    decoder: tuple[str, ...]


_CPU = Choice(
    presets={
        "fp32": StagePrecisions("fp32", "fp32", "fp32"),
        "int8": StagePrecisions("int8", "fp32", "int8"),
        "int4": StagePrecisions("int8", "fp32", "int4"),
    },
    vision_encoder=("fp32", "int8", "int4"),
    decoder=("fp32", "int8", "int4"),
)
# The decoder cannot be f32 there: the provider's attention operator takes f16 only. The encoder can, should its
# activations leave the range of f16.
_GPU = Choice(
    presets={
        "fp16": StagePrecisions("fp16", "fp32", "fp16"),
        "int8": StagePrecisions("fp16", "fp32", "int8"),
        "int4": StagePrecisions("fp16", "fp32", "int4"),
    },
    vision_encoder=("fp32", "fp16"),
    decoder=("fp16", "int8", "int4"),
)
CHOICES = {"cpu": _CPU, "cuda": _GPU, "tensorrt": _GPU}


def stage_precisions(
    target: str, precision: str | None = None, vision_encoder: str | None = None, decoder: str | None = None
) -> StagePrecisions:
    """Returns the precision of each stage; `vision_encoder` and `decoder` override the preset.

    Raises:
        ExportError: the target does not offer it.
    """
    choice, precision = CHOICES[target], precision or DEFAULT_PRECISION[target]
    if precision not in choice.presets:
        raise ExportError(f"--precision {precision}: target {target} offers {', '.join(choice.presets)}")
    preset = choice.presets[precision]
    return StagePrecisions(
        _one_of(choice.vision_encoder, vision_encoder or preset.vision_encoder, "--vision-encoder-precision", target),
        preset.qformer,
        _one_of(choice.decoder, decoder or preset.decoder, "--decoder-precision", target),
    )


def _one_of(offered: tuple[str, ...], asked: str, flag: str, target: str) -> str:
    if asked not in offered:
        raise ExportError(f"{flag} {asked}: target {target} offers {', '.join(offered)}")
    return asked
