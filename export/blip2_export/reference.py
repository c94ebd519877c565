"""The reference: transformers in f32 on the CPU, one row at a time, with the torchvision image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image, ImageOps
from transformers import Blip2ForConditionalGeneration
from transformers.models.blip.image_processing_blip import BlipImageProcessor

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DESCRIPTION = f"transformers {transformers.__version__}, fp32, cpu"
VERSIONS = {
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
}
# Not stored by newer versions of transformers, because it is the token embedding.
TIED = {"language_model.lm_head.weight"}


class ImageStages(NamedTuple):
    """What one picture becomes, each [1, positions, width]."""

    image_embeds: np.ndarray
    query_output: np.ndarray
    image_prefix: np.ndarray


class Reference:
    """A checkpoint loaded by transformers."""

    def __init__(self, checkpoint: Path) -> None:
        self.model: Any
        self.model, report = Blip2ForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, output_loading_info=True
        )
        missing = set(report["missing_keys"]) - TIED
        if missing or report["mismatched_keys"]:
            raise ExportError(f"{checkpoint}: transformers misses {sorted(missing)[:3]} {report['mismatched_keys']}")
        self.model.eval()
        self.processor = BlipImageProcessor.from_pretrained(checkpoint)
        if self.model.config.image_token_id is None:
            # Checkpoints older than the image token: any id that no prompt holds can mark the image
            # positions.
            self.model.config.image_token_id = self.model.config.text_config.vocab_size - 1

    def pixel_values(self, path: Path) -> np.ndarray:
        """A picture file -> f32 [1, 3, height, width].

        Only the array of the converted picture goes on: Pillow leaves a note about transparency on some, and
        the processor would put those on a white ground.
        """
        try:
            with Image.open(path) as image:
                rgb = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except OSError as error:
            raise ExportError(f"{path}: not a readable picture ({error})") from error
        return self.processor(Image.fromarray(rgb), return_tensors="np")["pixel_values"].astype(np.float32)

    @torch.no_grad()
    def image_stages(self, pixel_values: np.ndarray) -> ImageStages:
        """The outputs of vision encoder, Q-Former and language projection."""
        model = self.model
        embeds = model.vision_model(pixel_values=torch.from_numpy(pixel_values)).last_hidden_state
        output = model.qformer(
            query_embeds=model.query_tokens.expand(len(embeds), -1, -1), encoder_hidden_states=embeds
        ).last_hidden_state
        return ImageStages(*(t.numpy() for t in (embeds, output, model.language_projection(output))))

    @torch.no_grad()
    def greedy(self, pixel_values: np.ndarray, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The new tokens of `generate`, the end token included if it came."""
        ids = self._row(prompt)
        out = self.model.generate(
            pixel_values=torch.from_numpy(pixel_values),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
        )
        return out[0, ids.shape[1] :].tolist()

    @torch.no_grad()
    def teacher_forced(self, pixel_values: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """The logits before each token of `answer`, in one pass: f32 [len(answer), vocab]."""
        ids = self._row([*prompt, *answer[:-1]])
        logits = self.model(
            pixel_values=torch.from_numpy(pixel_values), input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits
        return logits[0, -len(answer) :].float().numpy()

    def _row(self, ids: Sequence[int]) -> torch.Tensor:
        config = self.model.config
        return torch.tensor([[config.image_token_id] * config.num_query_tokens + list(ids)])
