"""Reads the checkpoint's image settings for the manifest: size, mean and deviation.

The resize itself is the runtime's; this module checks that the checkpoint asks for the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from blip2_export.checkpoint.reader import Checkpoint

Json = dict[str, Any]

# Raised when the meaning of the same numbers changes, so that caches keyed by it are not reused.
PREPROCESSING_VERSION = 1
BICUBIC = 3
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
DEFAULT_SIDE = 384  # of transformers' BlipImageProcessor


def image_manifest(checkpoint: Checkpoint) -> Json:
    """Returns the manifest's `image` entry: height and width in pixels, mean and std per channel, from 0 to 1."""
    settings = _settings(checkpoint)
    for key, supported in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_normalize", True),
        ("resample", BICUBIC),
    ):
        if settings.get(key, supported) != supported:
            raise ExportError(f"preprocessor: {key} is {settings[key]!r}; only {supported!r} is supported")
    if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ExportError(f"preprocessor: rescale_factor is {settings['rescale_factor']}; only 1/255 is supported")
    height, width = _size(settings.get("size", DEFAULT_SIDE))
    side = checkpoint.config.vision.image_size
    if (height, width) != (side, side):
        raise ExportError(f"preprocessor: size is {height}x{width}, the vision encoder takes {side}x{side}")
    return {
        "height": height,
        "width": width,
        "mean": settings.get("image_mean", CLIP_MEAN),
        "std": settings.get("image_std", CLIP_STD),
        "preprocessing_version": PREPROCESSING_VERSION,
    }


def _settings(checkpoint: Checkpoint) -> Json:
    """Returns the image processor's settings: a file of their own, or a part of the processor's."""
    if checkpoint.has("preprocessor_config.json"):
        return checkpoint.read_json("preprocessor_config.json")
    if checkpoint.has("processor_config.json"):
        processor = checkpoint.read_json("processor_config.json")
        if "image_processor" in processor:
            return processor["image_processor"]
    raise ExportError(
        f"{checkpoint.folder}: no image settings found; "
        "preprocessor_config.json, or processor_config.json with image_processor, must be there"
    )


def _size(size: int | Json) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if set(size) != {"height", "width"}:
        raise ExportError(f"preprocessor: size is {size!r}; only height and width are supported")
    return size["height"], size["width"]
