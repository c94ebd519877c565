"""Trains a small byte-level BPE tokenizer in OPT's manner on the sentences of `questions`.

The special tokens keep OPT's roles and ids: `<s>` 0, `<pad>` 1, `</s>` 2 (put in front of every text), `<unk>` 3; the
id of "\\n" ends an answer; `<image>` follows the vocabulary. Any text can be encoded: all 256 bytes are tokens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from blip2_export.shapes.questions import caption, chat_exchange, question_exchange
from blip2_export.shapes.scenes import TRAIN, draw_scene

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PAD, BOS = 1, 2
IMAGE = "<image>"
NEWLINE = "\u010a"
"""How byte-level BPE writes the newline, whose token ends an answer."""


def train_tokenizer(scenes: int = 400, vocabulary: int = 440) -> Tokenizer:
    """Trains a tokenizer of at most `vocabulary` tokens, with `<image>` as the next id."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_sentences(scenes), trainer)
    parts = json.loads(trained.to_str())["model"]
    return assemble_tokenizer(parts["vocab"], [tuple(rule) for rule in parts["merges"]])


def assemble_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Returns the tokenizer as the hub stores OPT's: `</s>` in front, `<pad>`, `</s>` and `<image>` as added tokens."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "</s>", IMAGE])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", BOS)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the ids of a text alone: no `</s>` in front."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, vocab.json, merges.txt and tokenizer_config.json."""
    whole: dict[str, Any] = json.loads(tokenizer.to_str())
    _dump(folder / "tokenizer.json", whole)
    _dump(folder / "vocab.json", whole["model"]["vocab"])
    rules = [rule if isinstance(rule, str) else " ".join(rule) for rule in whole["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *rules]) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "add_prefix_space": False,
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
        "pad_token": "<pad>",
        "errors": "replace",
    }
    _dump(folder / "tokenizer_config.json", settings)


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _sentences(scenes: int) -> list[str]:
    sentences = []
    for index in range(scenes):
        rng = np.random.default_rng([7, index])
        scene = draw_scene(TRAIN, index)
        sentences.append(caption(scene) + "\n")
        for exchange in (question_exchange(scene, rng, training=True), chat_exchange(scene, rng, 1)):
            sentences.append(f"{exchange.prompt}{exchange.continuation}\n")
    return sentences
