"""Training batches: scenes with several prompts each, packed so that one image prefix serves all of them.

A packed row is `[image prefix][prompt 1][prompt 2]…`. Every prompt has its own positions, directly after the prefix,
and attends to the prefix and itself only, so the loss is that of separate rows, at a fraction of the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from blip2_export.shapes.model import IMAGE_SIZE, PATCH_SIZE, QUERY_TOKENS
from blip2_export.shapes.questions import Exchange, caption_exchange, chat_exchange, question_exchange
from blip2_export.shapes.scenes import COLORS, SHAPES, Scene, draw_scene
from blip2_export.shapes.tokenizer import BOS, NEWLINE, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

IGNORED = -100
PATCH_CLASSES = 1 + len(COLORS) * len(SHAPES)


@dataclass(frozen=True)
class Batch:
    """Tensors of some scenes; `length` counts the image prefix and the longest pack of prompts.

    `pixels` u8 [scenes, 3, size, size]; `patch_labels` and `patch_cells` [scenes, patches]; `input_ids` and `labels`
    [scenes, length - prefix]; `position_ids`, `segments` [scenes, length], segment 0 being the prefix and -1 padding.
    """

    pixels: Tensor
    patch_labels: Tensor
    patch_cells: Tensor
    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    segments: Tensor
    kinds: list[list[str]]

    def attention_mask(self) -> Tensor:
        """[scenes, 1, length, length], 0 where one may look and the lowest float elsewhere."""
        segments = self.segments
        length = segments.shape[1]
        same = segments[:, :, None] == segments[:, None, :]
        visible = (same | (segments[:, None, :] == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
        visible |= torch.eye(length, dtype=torch.bool)
        return torch.where(visible, 0.0, torch.finfo(torch.float32).min)[:, None]


class SceneBatches(IterableDataset[Batch]):
    """An endless, seeded stream of batches of a split, from scene `start` on."""

    def __init__(
        self, tokenizer: Tokenizer, split: int, scenes: int, questions: int, start: int = 0, training: bool = True
    ) -> None:
        self.tokenizer, self.split, self.scenes, self.questions = tokenizer, split, scenes, questions
        self.start, self.training = start, training
        self.eos = tokenizer.get_vocab()[NEWLINE]

    def __iter__(self) -> Iterator[Batch]:
        index = self.start
        while True:
            yield self.collate(range(index, index + self.scenes))
            index += self.scenes

    def exchanges(self, scene: Scene, index: int) -> list[Exchange]:
        """Returns a caption, some questions, and one chat."""
        rng = np.random.default_rng([self.split, index, 1])
        asked = [question_exchange(scene, rng, training=self.training) for _ in range(self.questions)]
        turns = int(rng.choice(4, p=[0.55, 0.25, 0.15, 0.05])) + 1
        return [caption_exchange(scene), *asked, chat_exchange(scene, rng, turns)]

    def collate(self, indices: range) -> Batch:
        """Returns the batch of these scenes."""
        scenes = [draw_scene(self.split, index) for index in indices]
        exchanges = [self.exchanges(scene, index) for scene, index in zip(scenes, indices, strict=True)]
        rows = [self._pack(asked) for asked in exchanges]
        length = max(len(row[0]) for row in rows)
        ids, labels, positions, segments = (
            torch.tensor([part + [fill] * (length - len(part)) for part in parts])
            for parts, fill in zip(zip(*rows, strict=True), (BOS, IGNORED, 0, -1), strict=True)
        )
        patches = [label_patches(scene) for scene in scenes]
        prefix = torch.arange(QUERY_TOKENS).expand(len(rows), -1)
        return Batch(
            pixels=torch.stack([resize(scene.pixels) for scene in scenes]),
            patch_labels=torch.stack([labels for labels, _ in patches]),
            patch_cells=torch.stack([cells for _, cells in patches]),
            input_ids=ids,
            labels=labels,
            position_ids=torch.cat([prefix, positions], 1),
            segments=torch.cat([torch.zeros_like(prefix), segments], 1),
            kinds=[[exchange.kind for exchange in asked] for asked in exchanges],
        )

    def _pack(self, asked: list[Exchange]) -> tuple[list[int], list[int], list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        segments: list[int] = []
        for segment, exchange in enumerate(asked, start=1):
            prompt = [BOS, *encode(self.tokenizer, exchange.prompt)]
            answer = [*encode(self.tokenizer, exchange.continuation), self.eos]
            row = prompt + answer[:-1]  # the end token is predicted, never fed
            ids += row
            labels += [IGNORED] * (len(prompt) - 1) + answer
            positions += range(QUERY_TOKENS, QUERY_TOKENS + len(row))
            segments += [segment] * len(row)
        return ids, labels, positions, segments


def resize(pixels: np.ndarray) -> Tensor:
    """Resizes RGB bytes [height, width, 3] to u8 [3, size, size] like BlipImageProcessor's torchvision backend."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return transforms.resize(image, [IMAGE_SIZE, IMAGE_SIZE], InterpolationMode.BICUBIC, antialias=True)


def label_patches(scene: Scene) -> tuple[Tensor, Tensor]:
    """Labels each patch, row by row: the colour and shape at its centre (0 is background), and that object's cell.

    The cell of background is `IGNORED`.
    """
    height, width, _ = scene.pixels.shape
    side = IMAGE_SIZE // PATCH_SIZE
    ys, xs = np.mgrid[0:side, 0:side] + 0.5
    labels = np.zeros((side, side), dtype=np.int64)
    cells = np.full((side, side), IGNORED, dtype=np.int64)
    for thing in scene.things:
        (x, y), reach = thing.center, thing.radius
        inside = (xs * width / side - x) ** 2 + (ys * height / side - y) ** 2 < reach**2
        labels[inside] = 1 + list(COLORS).index(thing.color) * len(SHAPES) + SHAPES.index(thing.shape)
        cells[inside] = thing.cell
    return torch.from_numpy(labels.ravel()), torch.from_numpy(cells.ravel())
