"""Runs the reference: transformers in f32, one row at a time, with the torchvision image processor, on CPU or GPU.

A stage's modules are created without memory, loaded tensor by tensor, and freed when another stage is requested, so
the whole model is never in memory. The result equals that of `Blip2ForConditionalGeneration` to the last bit.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image, ImageOps
from torch import nn
from transformers import Blip2Config, Blip2QFormerModel, Blip2VisionModel, OPTForCausalLM
from transformers.models.blip.image_processing_blip import BlipImageProcessor

from blip2_export.checkpoint.reader import LM_HEAD, Checkpoint
from blip2_export.errors import ExportError
from blip2_export.verification.beam_search import BeamAnswer
from blip2_export.verification.memory import release

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from blip2_export.verification.beam_search import BeamOptions

VERSIONS = {
    "transformers": transformers.__version__,
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
}
# Where the weights of a stage begin in the checkpoint.
ROOTS = {"vision_encoder": "vision_model.", "qformer": "", "decoder": "language_model."}


class QueryStage(nn.Module):
    """Q-Former, query tokens and language projection, with the names they have in the checkpoint."""

    def __init__(self, config: Blip2Config) -> None:
        super().__init__()
        width = config.qformer_config.hidden_size
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, width))
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config, dtype=torch.float32)
        self.language_projection = nn.Linear(width, config.text_config.hidden_size)


class Reference:
    """A checkpoint run by transformers. The newest stage used is the only one in memory.

    Raises:
        ExportError: a file is missing or unreadable, or a tensor is missing or of another shape.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        if device != "cpu" and not torch.cuda.is_available():
            raise ExportError(f"--reference-device {device}: torch finds no GPU; use cpu, or install a driver")
        torch.backends.cudnn.allow_tf32 = False  # its default for convolutions; products are f32 by default
        self.device = device
        self.checkpoint = Checkpoint(folder)
        self.config = Blip2Config.from_pretrained(folder)
        self.processor = BlipImageProcessor.from_pretrained(folder)
        # Checkpoints older than the image token: any id that no prompt holds can mark the image positions.
        old = self.config.image_token_id is None
        self._image_token_id = self.config.text_config.vocab_size - 1 if old else self.config.image_token_id
        self._stage: tuple[str, Any] = ("", None)

    def pixel_values(self, path: Path) -> np.ndarray:
        """Reads an image file as f32 [1, 3, height, width].

        Only the array of the converted image is passed on: Pillow leaves a note about transparency on some, and
        the processor would put those on a white ground.
        """
        try:
            with Image.open(path) as image:
                rgb = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except OSError as error:
            raise ExportError(f"{path}: not a readable image ({error})") from error
        return self.processor(Image.fromarray(rgb), return_tensors="np")["pixel_values"].astype(np.float32)

    @property
    def description(self) -> str:
        """The description in certificates and golden answers."""
        return f"transformers {transformers.__version__}, fp32, {self.device}"

    def close(self) -> None:
        """Frees the weights in memory."""
        self._stage = ("", None)
        release()

    @torch.no_grad()
    def image_embeds(self, pixel_values: np.ndarray) -> np.ndarray:
        """[1, 3, height, width] -> [1, num_tokens, vision hidden]."""
        vision = self._load("vision_encoder")
        return vision(pixel_values=self._tensor(pixel_values)).last_hidden_state.cpu().numpy()

    @torch.no_grad()
    def query(self, image_embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """image_embeds -> query_output [1, queries, hidden], image_prefix [1, queries, width]."""
        stage, embeds = self._load("qformer"), self._tensor(image_embeds)
        output = stage.qformer(
            query_embeds=stage.query_tokens,
            encoder_hidden_states=embeds,
            encoder_attention_mask=torch.ones(embeds.shape[:-1], dtype=torch.long, device=self.device),
        ).last_hidden_state
        return output.cpu().numpy(), stage.language_projection(output).cpu().numpy()

    def greedy(self, image_prefix: np.ndarray, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Returns the new tokens of `generate`, the end token included if it came."""
        return self._generate(image_prefix, prompt, num_beams=1, max_new_tokens=max_new_tokens)[0].token_ids

    def beams(
        self, image_prefix: np.ndarray, prompt: Sequence[int], options: BeamOptions, max_new_tokens: int
    ) -> list[BeamAnswer]:
        """Returns all answers of `generate` with beams, best first."""
        return self._generate(
            image_prefix,
            prompt,
            num_return_sequences=options.num_beams,
            max_new_tokens=max_new_tokens,
            **options.report(),
        )

    @torch.no_grad()
    def teacher_forced(self, image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """Returns the logits before each token of `answer`, in one pass: f32 [len(answer), vocab]."""
        inputs = self._inputs(image_prefix, [*prompt, *answer[:-1]])
        del inputs["input_ids"]
        return self._load("decoder")(**inputs).logits[0, -len(answer) :].cpu().numpy()

    def vision_layers(self, pixel_values: np.ndarray) -> np.ndarray:
        """Returns the hidden state after every layer: f32 [layers, num_tokens, hidden]."""
        layers = self._load("vision_encoder").encoder.layers
        return _layer_states(layers, lambda: self.image_embeds(pixel_values))

    def decoder_layers(self, image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """Returns the hidden state after every layer of a teacher-forced pass: f32 [layers, positions, hidden]."""
        layers = self._load("decoder").model.decoder.layers
        return _layer_states(layers, lambda: self.teacher_forced(image_prefix, prompt, answer))

    @torch.no_grad()
    def _generate(self, image_prefix: np.ndarray, prompt: Sequence[int], **options: Any) -> list[BeamAnswer]:  # noqa: ANN401
        model, inputs = self._load("decoder"), self._inputs(image_prefix, prompt)
        found = model.generate(
            **inputs, do_sample=False, return_dict_in_generate=True, output_scores=options["num_beams"] > 1, **options
        )
        new = found.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        scores = found.get("sequences_scores")
        eos = self.checkpoint.config.text.eos_token_id
        return [
            BeamAnswer(_until(tokens, eos), 0.0 if scores is None else float(scores[row]))
            for row, tokens in enumerate(new)
        ]

    def _inputs(self, image_prefix: np.ndarray, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns the inputs that `Blip2ForConditionalGeneration` passes to its decoder, the image before the text."""
        prefix = self._tensor(image_prefix)
        text = torch.tensor([list(ids)], device=self.device)
        embeds = torch.cat([prefix, self._load("decoder").get_input_embeddings()(text)], dim=1)
        image = torch.full((1, prefix.shape[1]), self._image_token_id, device=self.device)
        input_ids = torch.cat([image, text], dim=1)
        return {"inputs_embeds": embeds, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def _load(self, stage: str) -> Any:  # noqa: ANN401  the modules of transformers have no common type
        """Loads the modules of a stage with their weights, after freeing those of any other stage."""
        if self._stage[0] != stage:
            self.close()
            self._stage = (stage, self._materialise(stage))
        return self._stage[1]

    @torch.no_grad()
    def _materialise(self, stage: str) -> nn.Module:
        config, root = self.config, ROOTS[stage]
        with torch.device("meta"):
            if stage == "vision_encoder":
                module = Blip2VisionModel._from_config(config.vision_config, dtype=torch.float32)
            elif stage == "qformer":
                module = QueryStage(config)
            else:
                module = OPTForCausalLM._from_config(config.text_config, dtype=torch.float32)
        weights = {
            name: self._tensor(self.checkpoint.tensor(root + name, tuple(empty.shape)))
            for name, empty in module.state_dict().items()
            if root + name != LM_HEAD
        }
        module.load_state_dict(weights, strict=False, assign=True)
        if stage == "decoder":
            module.tie_weights()
        empty = [name for name, values in chain(module.named_parameters(), module.named_buffers()) if values.is_meta]
        if empty:
            raise ExportError(f"{self.checkpoint.folder}: nothing gives {stage} its tensor {empty[0]}")
        return module.eval()


def _layer_states(layers: nn.ModuleList, run: Callable[[], object]) -> np.ndarray:
    """Returns the output of each layer during `run`, for its only row: [layers, positions, hidden]."""
    states: list[np.ndarray] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: states.append(out[0].cpu().numpy())) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack(states)


def _until(tokens: list[int], end: int) -> list[int]:
    """Returns the tokens up to the first `end`, after which there is padding."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
