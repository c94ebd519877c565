"""Draws images and has general prompts, for a verification without input files.

The same seeds give the same pixels. Images are wide, tall and square, so that the resize is exercised too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = (
    "",
    "Question: what color is the star? Answer:",
    "Question: how many objects are there? Answer:",
    "Question: what shape is on the left? Answer:",
)
SIZES = ((320, 240), (240, 320), (224, 224), (400, 300), (150, 150), (500, 120))  # width, height in pixels
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
SHAPES = ("circle", "square", "triangle", "star")


def draw_image(seed: int) -> Image.Image:
    """Draws a few coloured shapes on a shaded ground."""
    random = np.random.default_rng(seed)
    width, height = SIZES[seed % len(SIZES)]
    image = Image.fromarray(_ground(random, width, height))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 5)):
        radius = int(min(width, height) * random.uniform(0.1, 0.25))
        x, y = int(random.integers(radius, width - radius)), int(random.integers(radius, height - radius))
        _draw_shape(draw, str(random.choice(SHAPES)), (x, y), radius, str(random.choice(COLORS)))
    return image


def save_images(folder: Path, count: int = len(SIZES)) -> list[Path]:
    """Writes `count` images as PNG files."""
    paths = [folder / f"picture-{seed:02}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        draw_image(seed).save(path)
    return paths


def _ground(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Returns a gradient between two colours, u8 [height, width, 3]."""
    first, second = random.integers(60, 200, (2, 3))
    share = np.linspace(0, 1, width)[None, :, None] * np.linspace(0.5, 1, height)[:, None, None]
    return (first + (second - first) * share).astype(np.uint8)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, centre: tuple[int, int], radius: int, color: str) -> None:
    x, y = centre
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif shape == "square":
        draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=color)
    else:
        draw.polygon(_polygon(x, y, radius, star=shape == "star"), fill=color)


def _polygon(x: int, y: int, radius: int, *, star: bool) -> list[tuple[int, int]]:
    """Returns a triangle, or a star with five points."""
    corners = 10 if star else 3
    radii = [radius * 0.4 if star and corner % 2 else radius for corner in range(corners)]
    angles = [2 * math.pi * corner / corners - math.pi / 2 for corner in range(corners)]
    return [(round(x + r * math.cos(a)), round(y + r * math.sin(a))) for r, a in zip(radii, angles, strict=True)]
