"""Draws scenes of coloured shapes: one to four objects in the cells of a 3 x 3 grid, with jitter in everything.

A scene is a pure function of (split, index), so training and evaluation never share one, and an image in a
report can be drawn again. Needs numpy and Pillow only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (215, 40, 40),
    "orange": (245, 145, 25),
    "yellow": (238, 218, 40),
    "green": (45, 160, 65),
    "blue": (45, 85, 220),
    "purple": (145, 55, 180),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
CANVASES = ((224, 224), (256, 192), (192, 256))  # width, height: the resize squeezes them, as it does photos
MAX_OBJECTS = 4

TRAIN, HELD_OUT = 0, 1
"""The two splits: scenes of one are never scenes of the other."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Thing:
    """One object: its colour and shape by name, its cell (0 to 8, row by row), centre and radius in pixels."""

    color: str
    shape: str
    cell: int
    center: Point
    radius: float

    @property
    def place(self) -> str:
        """The place in words."""
        return PLACES[self.cell]


@dataclass(frozen=True)
class Scene:
    """An image as RGB bytes [height, width, 3], and what it shows in reading order."""

    pixels: np.ndarray
    things: tuple[Thing, ...]

    def image(self) -> Image.Image:
        """Returns the image for Pillow."""
        return Image.fromarray(self.pixels)


def draw_scene(split: int, index: int) -> Scene:
    """Returns the scene number `index` of a split."""
    rng = np.random.default_rng([split, index])
    width, height = CANVASES[rng.choice(len(CANVASES), p=[0.6, 0.2, 0.2])]
    things = _place_things(rng, width, height)
    background = tuple(int(v) for v in rng.integers(212, 256, 3))
    image = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(image)
    for thing in things:
        base = np.array(COLORS[thing.color])
        fill = tuple(int(v) for v in np.clip(base + rng.integers(-14, 15, 3), 0, 255))
        _draw_thing(draw, thing, fill, angle=rng.uniform(-0.2, 0.2))
    noise = rng.integers(-5, 6, (height, width, 1), dtype=np.int8)
    pixels = np.clip(np.asarray(image, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
    return Scene(pixels, things)


def _place_things(rng: np.random.Generator, width: int, height: int) -> tuple[Thing, ...]:
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    kinds = rng.choice(len(COLORS) * len(SHAPES), count, replace=False)
    cells = np.sort(rng.choice(9, count, replace=False))
    cell_width, cell_height = width / 3, height / 3
    things = []
    for kind, cell in zip(kinds, cells, strict=True):
        row, column = divmod(int(cell), 3)
        center = (
            (column + 0.5 + rng.uniform(-0.1, 0.1)) * cell_width,
            (row + 0.5 + rng.uniform(-0.1, 0.1)) * cell_height,
        )
        radius = rng.uniform(0.3, 0.42) * min(cell_width, cell_height)
        color, shape = divmod(int(kind), len(SHAPES))
        things.append(Thing(list(COLORS)[color], SHAPES[shape], int(cell), center, radius))
    return tuple(things)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, fill: tuple[int, ...], angle: float) -> None:
    (x, y), radius = thing.center, thing.radius
    if thing.shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    turn_cos, turn_sin = math.cos(angle), math.sin(angle)
    outline = [
        (x + radius * (px * turn_cos - py * turn_sin), y + radius * (px * turn_sin + py * turn_cos))
        for px, py in _OUTLINES[thing.shape]
    ]
    draw.polygon(outline, fill=fill)


def _star() -> list[Point]:
    spokes = ((i * math.pi / 5 - math.pi / 2, 1.1 if i % 2 == 0 else 0.45) for i in range(10))
    return [(length * math.cos(angle), length * math.sin(angle)) for angle, length in spokes]


def _cross() -> list[Point]:
    a, b = 0.32, 1.0
    quarter = [
        (-a, -b),
        (a, -b),
        (a, -a),
        (b, -a),
        (b, a),
        (a, a),
        (a, b),
        (-a, b),
        (-a, a),
        (-b, a),
        (-b, -a),
    ]
    return [*quarter, (-a, -a)]


_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star(),
    "cross": _cross(),
}
