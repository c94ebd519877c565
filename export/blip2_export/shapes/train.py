"""`train-shapes`: trains the tiny BLIP-2 on drawn scenes, saves it in the hub's layout. Needs transformers.

The vision pass is shared by all prompts of a scene, and the prompts of a scene by one packed row (`batches`).
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Blip2ForConditionalGeneration

from .batches import IGNORED, PATCH_CLASSES, Batch, SceneBatches
from .model import PatchLabels, build_config, build_model, normalise, save_checkpoint
from .scenes import HELD_OUT, PLACES, TRAIN
from .tokenizer import save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

REPORT_EVERY = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `train-shapes`."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--minutes", type=float, default=55.0, help="time to train for; the schedule is fitted to it")
    parser.add_argument("--steps", type=int, help="number of steps, instead of --minutes (reproducible)")
    parser.add_argument("--scenes", type=int, default=32, help="scenes per step")
    parser.add_argument("--questions", type=int, default=5, help="questions per scene, beside its caption and a chat")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the scenes; every seed has its own")
    parser.add_argument("--start-from", type=Path, help="checkpoint to go on from, with another --seed")
    parser.add_argument("--check-scenes", type=int, default=512, help="unseen scenes for the closing check")


def run(arguments: argparse.Namespace) -> int:
    """Trains, checks on unseen scenes, saves. Returns the exit code."""
    torch.manual_seed(arguments.seed)
    tokenizer, model = _start(arguments)
    _log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {tokenizer.get_vocab_size()} tokens")
    _train(model, tokenizer, arguments)
    for kind, (right, asked) in sorted(check(model, tokenizer, arguments.check_scenes).items()):
        _log(f"unseen {kind:<12} {right:5d} of {asked:5d}  {100 * right / asked:6.2f} %")
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, arguments.output)
    save_tokenizer(tokenizer, arguments.output)
    _log(f"saved {arguments.output}")
    return 0


def _start(arguments: argparse.Namespace) -> tuple[Tokenizer, Blip2ForConditionalGeneration]:
    if arguments.start_from is None:
        tokenizer = train_tokenizer()
        return tokenizer, build_model(build_config(tokenizer), arguments.seed)
    tokenizer = Tokenizer.from_file(str(arguments.start_from / "tokenizer.json"))
    return tokenizer, Blip2ForConditionalGeneration.from_pretrained(arguments.start_from, dtype=torch.float32)


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


def _train(model: Blip2ForConditionalGeneration, tokenizer: Tokenizer, arguments: argparse.Namespace) -> None:
    stream = SceneBatches(tokenizer, TRAIN, arguments.scenes, arguments.questions, start=arguments.seed * 10**8)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4))
    labeller = PatchLabels(model.config.vision_config.hidden_size, PATCH_CLASSES, len(PLACES))
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2] + list(labeller.parameters())
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, 0.98))
    model.train()
    shown = 0.0
    for step, done in _schedule(arguments):
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * _one_cycle(done)
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


def _schedule(arguments: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Steps from 1, each with the share of the training that is done."""
    start, step = time.monotonic(), 0
    while True:
        step += 1
        done = step / arguments.steps if arguments.steps else (time.monotonic() - start) / (60 * arguments.minutes)
        if done > 1:
            return
        yield step, done


def _one_cycle(done: float) -> float:
    """Linear warm-up over 4 %, then half a cosine down to zero."""
    warm = 0.04
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


@torch.no_grad()
def check(model: Blip2ForConditionalGeneration, tokenizer: Tokenizer, scenes: int) -> dict[str, tuple[int, int]]:
    """Whole answers exactly right on unseen scenes, per kind, as (right, asked).

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
