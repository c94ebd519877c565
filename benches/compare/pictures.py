"""Pictures that nothing has seen before: the same seed gives the same file on every machine with the same Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEIGHT = 640, 480
COARSE = (48, 64)  # rows and columns of the colours that are blurred into a picture
GRAIN = 6  # of 256 steps; makes the file as large as a photograph's, about 100 kB


def write_picture(folder: Path, seed: int) -> Path:
    """A JPEG file of blurred colours with grain, as large and as dear to decode as a photograph."""
    path = folder / f"{seed}.jpg"
    if not path.exists():
        random = np.random.default_rng(seed)
        coarse = Image.fromarray(random.integers(0, 256, (*COARSE, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        grained = smooth + random.normal(0, GRAIN, smooth.shape)
        Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path
