"""Writes a synthetic checkpoint: random weights in the exact layout and dimensions of Salesforce/blip2-opt-2.7b.

Use it to measure speed and memory, or to try every step, without the real weights. Activations and logits have the
range of a trained model's, and answers depend on images and prompts, but they mean nothing. Rounding changes them far
more often than real ones, because the best token is never far ahead of the second.

--like takes the dimensions from another config.json. Tensors depend on the seed, their names and the configuration
alone. The tokenizer is a made-up one with the special tokens in their places; --tokenizer copies a real one. The
output folder is written under a temporary name and renamed, so it is either complete or absent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  python -m blip2_export make-checkpoint --output checkpoints/synthetic
  python -m blip2_export make-checkpoint --output checkpoints/tiny --like onnx/checkpoint/config.json --dtype float32
  python -m blip2_export make-checkpoint --output checkpoints/synthetic --tokenizer blip2-opt-2.7b --seed 1
"""
UNITS = {"MB": 10**6, "GB": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--like", type=Path, metavar="CONFIG", help="config.json with the dimensions (default: blip2-opt-2.7b's)"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="folder with tokenizer.json, or vocab.json and merges.txt, to copy (default: a made-up tokenizer)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")
    parser.add_argument(
        "--dtype", default="float16", help="type of the weights: float16, bfloat16 or float32 (default: float16)"
    )
    parser.add_argument(
        "--shard-size",
        type=_bytes,
        default="5GB",
        metavar="SIZE",
        help="largest file of weights, such as 500MB (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Writes the checkpoint."""
    from blip2_export.synthetic.checkpoint import SyntheticOptions, make_checkpoint

    fields = ("output", "like", "tokenizer", "seed", "dtype")
    chosen = {field: getattr(options, field) for field in fields}
    make_checkpoint(SyntheticOptions(**chosen, shard_bytes=options.shard_size))
    return 0


def _bytes(text: str) -> int:
    number, unit = text[:-2], text[-2:].upper()
    if unit not in UNITS or not number.isdecimal() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 5GB")
    return int(number) * UNITS[unit]
