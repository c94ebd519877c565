"""Runs real images and prompts through the stages, for roundings that depend on the layers' inputs.

Memory stays bounded: one session is open at a time, and only the image positions of each image are kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from blip2_export.checkpoint.tokenizer import parse_tokenizer, prompt_ids
from blip2_export.errors import ExportError
from blip2_export.inference.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from blip2_export.checkpoint.config import Blip2Config

Json = dict[str, Any]

CASES, PROMPTS = "cases.json", "prompts.txt"
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
DEFAULT_PROMPTS = ("", "Question: what is in the picture? Answer:", "Question: what color is it? Answer:")


@dataclass(frozen=True)
class CalibrationRow:
    """An image with the text that follows it."""

    image: Path
    text: str


def read_rows(folder: Path) -> list[CalibrationRow]:
    """Returns the rows of a calibration folder.

    `cases.json` lists them as for verify, an `answer` added to the text if there is one. Without it every image
    of the folder is taken with every line of `prompts.txt`, or with a few general prompts.

    Raises:
        ExportError: there are no images, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such folder; --calibration must name a folder with images")
    rows = _listed(folder / CASES) if (folder / CASES).is_file() else list(_crossed(folder))
    if not rows:
        raise ExportError(f"{folder}: holds neither images ({', '.join(sorted(IMAGE_SUFFIXES))}) nor {CASES}")
    return rows


def _listed(path: Path) -> list[CalibrationRow]:
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        texts = [(case["image"], " ".join(filter(None, (case["text"], case.get("answer"))))) for case in cases]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f'{path}: not of the form {{"cases": [{{"image": …, "text": …}}]}}') from error
    return [CalibrationRow(path.parent / image, text) for image, text in texts]


def _crossed(folder: Path) -> Iterator[CalibrationRow]:
    file = folder / PROMPTS
    prompts = file.read_text(encoding="utf-8").splitlines() if file.is_file() else DEFAULT_PROMPTS
    for image in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
        yield from (CalibrationRow(image, prompt) for prompt in prompts)


def rows_digest(rows: Sequence[CalibrationRow]) -> str:
    """Hashes all images and texts, in order: the bundle's bytes depend on them."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(hashlib.sha256(row.image.read_bytes()).digest())
        digest.update(hashlib.sha256(row.text.encode()).digest())
    return digest.hexdigest()


def pixel_values(path: Path, image: Json) -> np.ndarray:
    """Reads an image file as f32 [1, 3, height, width]; `image` is the manifest's entry.

    Pillow resizes it: close enough to the reference for calibration, not for answers.
    """
    try:
        with Image.open(path) as opened:
            rgb = ImageOps.exif_transpose(opened).convert("RGB")
            resized = rgb.resize((image["width"], image["height"]), Image.Resampling.BICUBIC)
    except OSError as error:
        raise ExportError(f"{path}: not a readable image ({error})") from error
    scaled = (np.asarray(resized, np.float32) / 255 - np.array(image["mean"], "f4")) / np.array(image["std"], "f4")
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


class Calibration:
    """The rows, run through the stages that are already written. `image` is the manifest's entry."""

    def __init__(self, rows: Sequence[CalibrationRow], folder: Path, image: Json, config: Blip2Config) -> None:
        self.rows = rows
        self._folder = folder
        self._image = image
        self._config = config

    def pixel_values(self) -> Iterator[tuple[Path, np.ndarray]]:
        """Yields every image once, with its f32 [1, 3, height, width]."""
        for path in sorted({row.image for row in self.rows}):
            yield path, pixel_values(path, self._image)

    def prompts(self) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Yields the image positions f32 [queries, hidden] and the ids of the text of every row.

        Raises:
            ExportError: a row is longer than the model.
        """
        text = self._config.text
        tokenizer = parse_tokenizer((self._folder / "tokenizer.json").read_bytes())
        for row in self.rows:
            prefix, ids = self._prefixes[row.image], prompt_ids(tokenizer, text.bos_token_id, row.text)
            if len(prefix) + len(ids) > text.max_positions:
                raise ExportError(f"{row.image}: its text has {len(ids)} tokens, too many for the model; shorten it")
            yield prefix, ids

    @cached_property
    def _prefixes(self) -> dict[Path, np.ndarray]:
        """The image positions by the bundle's own encoder and Q-Former, as its decoder will get them."""
        vision = open_session(self._folder / "vision_encoder.onnx")
        embeds = {path: vision.run(None, {"pixel_values": pixels})[0] for path, pixels in self.pixel_values()}
        del vision  # only one session at a time
        qformer = open_session(self._folder / "qformer.onnx")
        return {path: qformer.run(["image_prefix"], {"image_embeds": value})[0][0] for path, value in embeds.items()}
