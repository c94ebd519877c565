"""Trains the tiny BLIP-2 on drawn scenes, and saves it in the hub's layout. Needs transformers.

The vision pass is shared by all prompts of a scene, and the prompts of a scene by one packed row (`batches`).
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Blip2ForConditionalGeneration

from blip2_export.shapes.batches import IGNORED, PATCH_CLASSES, Batch, SceneBatches
from blip2_export.shapes.model import PatchLabels, build_config, build_model, normalise, save_checkpoint
from blip2_export.shapes.scenes import HELD_OUT, PLACES, TRAIN
from blip2_export.shapes.tokenizer import save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPORT_EVERY = 100


@dataclass(frozen=True)
class TrainingOptions:
    """The arguments of `train-shapes`. With `steps` the training is reproducible; `minutes` is then ignored."""

    output: Path
    minutes: float
    steps: int | None
    scenes: int
    questions: int
    learning_rate: float
    seed: int
    start_from: Path | None
    check_scenes: int


def train(options: TrainingOptions) -> None:
    """Trains, checks on unseen scenes, and saves the checkpoint."""
    torch.manual_seed(options.seed)
    tokenizer, model = _start(options)
    _log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {tokenizer.get_vocab_size()} tokens")
    _train(model, tokenizer, options)
    for kind, (right, asked) in sorted(check(model, tokenizer, options.check_scenes).items()):
        _log(f"unseen {kind:<12} {right:5d} of {asked:5d}  {100 * right / asked:6.2f} %")
    options.output.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, options.output)
    save_tokenizer(tokenizer, options.output)
    _log(f"saved {options.output}")


def _start(options: TrainingOptions) -> tuple[Tokenizer, Blip2ForConditionalGeneration]:
    if options.start_from is None:
        tokenizer = train_tokenizer()
        return tokenizer, build_model(build_config(tokenizer), options.seed)
    tokenizer = Tokenizer.from_file(str(options.start_from / "tokenizer.json"))
    return tokenizer, Blip2ForConditionalGeneration.from_pretrained(options.start_from, dtype=torch.float32)


def answer_logits(model: Blip2ForConditionalGeneration, batch: Batch) -> tuple[Tensor, Tensor]:
    """`image_embeds` and the logits [scenes, length - prefix, vocab] of the packed prompts."""
    image_embeds = model.vision_model(normalise(batch.pixels)).last_hidden_state
    queries = model.query_tokens.expand(len(image_embeds), -1, -1)
    query_output = model.qformer(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state
    prefix = model.language_projection(query_output)
    words = model.get_input_embeddings()(batch.input_ids)
    hidden = model.language_model.model(
        inputs_embeds=torch.cat([prefix, words], 1),
        attention_mask=batch.attention_mask(),
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return image_embeds, model.language_model.lm_head(hidden[:, prefix.shape[1] :])


def _train(model: Blip2ForConditionalGeneration, tokenizer: Tokenizer, options: TrainingOptions) -> None:
    stream = SceneBatches(tokenizer, TRAIN, options.scenes, options.questions, start=options.seed * 10**8)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4))
    labeller = PatchLabels(model.config.vision_config.hidden_size, PATCH_CLASSES, len(PLACES))
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2] + list(labeller.parameters())
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98))
    model.train()
    shown = 0.0
    for step, done in _schedule(options):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _one_cycle(done)
        batch = next(batches)
        image_embeds, logits = answer_logits(model, batch)
        wanted = batch.labels != IGNORED
        language = torch.nn.functional.cross_entropy(logits[wanted], batch.labels[wanted])
        seeing = labeller(image_embeds, batch.patch_labels, batch.patch_cells)
        optimizer.zero_grad(set_to_none=True)
        (language + 0.5 * (1.0 - done) * seeing).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shown += float(language.detach())
        if step % REPORT_EVERY == 0:
            right = float((logits[wanted].argmax(-1) == batch.labels[wanted]).float().mean())
            losses = f"loss {shown / REPORT_EVERY:.4f}  patches {float(seeing.detach()):.4f}"
            _log(f"step {step} {100 * done:5.1f} %  {losses}  right {right:.4f}")
            shown = 0.0


def _schedule(options: TrainingOptions) -> Iterator[tuple[int, float]]:
    """Yields steps from 1, each with the finished share of the training."""
    start, step = time.monotonic(), 0
    while True:
        step += 1
        done = step / options.steps if options.steps else (time.monotonic() - start) / (60 * options.minutes)
        if done > 1:
            return
        yield step, done


def _one_cycle(done: float) -> float:
    """Returns the factor of the learning rate: linear warm-up over 4 %, then half a cosine down to zero."""
    warm = 0.04
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


@torch.no_grad()
def check(model: Blip2ForConditionalGeneration, tokenizer: Tokenizer, scenes: int) -> dict[str, tuple[int, int]]:
    """Counts exactly right answers on unseen scenes, per kind, as (right, asked).

    One pass is enough: when every token of an answer is the likeliest given the right ones before it, greedy generation
    writes exactly this answer.
    """
    model.eval()
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    stream = SceneBatches(tokenizer, HELD_OUT, 32, 5, training=False)
    for start in range(0, scenes, 32):
        batch = stream.collate(range(start, start + 32))
        wrong = (answer_logits(model, batch)[1].argmax(-1) != batch.labels) & (batch.labels != IGNORED)
        segments = batch.segments[:, -wrong.shape[1] :]
        for row, kinds in enumerate(batch.kinds):
            for segment, kind in enumerate(kinds, start=1):
                counts[kind][1] += 1
                counts[kind][0] += int(not wrong[row, segments[row] == segment].any())
    return {kind: (right, asked) for kind, (right, asked) in counts.items()}


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
