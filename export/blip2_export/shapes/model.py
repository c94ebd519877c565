"""The tiny BLIP-2: transformers' own classes at a few million parameters, initialised so that it learns.

Three widths differ on purpose (vision 128, Q-Former 96, OPT 160): code that mixes them up does not run.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from blip2_export.shapes.tokenizer import BOS, IMAGE, NEWLINE, PAD

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

IMAGE_SIZE = 112
PATCH_SIZE = 14
QUERY_TOKENS = 8
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def build_config(tokenizer: Tokenizer) -> Blip2Config:
    """Returns the configuration that goes with a tokenizer."""
    vocabulary = tokenizer.get_vocab()
    text = OPTConfig(
        vocab_size=-(-len(vocabulary) // 16) * 16,  # padded, as the published checkpoint's table is
        hidden_size=160,
        word_embed_proj_dim=160,
        ffn_dim=640,
        num_hidden_layers=3,
        num_attention_heads=5,
        max_position_embeddings=160,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=vocabulary[NEWLINE],
    )
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "attention_dropout": 0.0,
    }
    qformer = {
        "vocab_size": 16,  # no text branch: the embedding table is never made
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text.to_dict(),
        num_query_tokens=QUERY_TOKENS,
        image_token_index=vocabulary[IMAGE],
    )


def build_model(config: Blip2Config, seed: int) -> Blip2ForConditionalGeneration:
    """Builds a model to train.

    transformers starts this class with query tokens of zero, which keeps all queries equal forever, and with vision
    weights of deviation 1e-10, so all weights are initialised here, by fan-in.
    """
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.zero_()
            elif "norm" in name.lower():
                value.fill_(1.0)
            elif name == "query_tokens":
                value.normal_(0.0, 1.0)
            elif value.dim() >= 2 and "embed" not in name:
                value.normal_(0.0, 0.8 / math.sqrt(value[0].numel()))
            else:
                value.normal_(0.0, 0.08 if "embed_tokens" in name else 0.05)
    return model


def normalise(pixels: Tensor) -> Tensor:
    """Normalises u8 pixels [batch, 3, size, size] to pixel_values."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


class PatchLabels(nn.Module):
    """A second task for the vision encoder, dropped after training: name what lies under each patch, and where it is.

    It teaches the encoder to see shapes and to keep positions; the language loss alone takes thousands of steps for the
    first and many more for the second.
    """

    def __init__(self, hidden: int, classes: int, cells: int) -> None:
        super().__init__()
        self.kind = nn.Linear(hidden, classes)
        self.cell = nn.Linear(hidden, cells)

    def forward(self, image_embeds: Tensor, labels: Tensor, cells: Tensor) -> Tensor:
        """Returns the loss of `labels`, `cells` [batch, patches] for `image_embeds` [batch, 1 + patches, hidden]."""
        patches = image_embeds[:, 1:].flatten(0, 1)
        kind = nn.functional.cross_entropy(self.kind(patches), labels.flatten())
        return kind + 0.2 * nn.functional.cross_entropy(self.cell(patches), cells.flatten())


def save_checkpoint(model: Blip2ForConditionalGeneration, folder: Path) -> None:
    """Writes config.json, model.safetensors (f16) and preprocessor_config.json in the hub's layout."""
    model.half().save_pretrained(folder)
    settings = {
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
