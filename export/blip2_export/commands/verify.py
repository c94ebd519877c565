"""Compares a bundle with transformers (fp32, one row at a time), and checks what a server relies on.

Every stage, the logits over the reference's own tokens, greedy and beam-search answers, and the hidden state after
every layer are compared; then the bundle with itself: unequal rows in one batch, in-place KV buffers, continuation
of a prefix.

One stage of one side is in memory at a time: BLIP-2 OPT-2.7b takes 12 GB, most of it for the reference, whatever
the precision of the bundle. Free memory is checked before anything starts. Bundles for GPUs are run on the CPU,
unless --provider says otherwise; then a silent fallback to the CPU is an error.

Prints a table, and writes parity.json, parity.html (the same with plots) and golden/ into the bundle. Exit code 1
means that the bundle misses a limit of its precision. Needs the extra `reference`: pip install
'blip2-export[reference]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  python -m blip2_export verify --checkpoint blip2-opt-2.7b --bundle onnx/blip2-opt-2.7b-int8
  python -m blip2_export verify --checkpoint blip2-opt-2.7b --bundle onnx/int4 --cases cases.json --beams 0
  python -m blip2_export verify --checkpoint blip2-opt-2.7b --bundle onnx/cuda --provider cuda --reference-device cuda

A cases file: {"cases": [{"image": "cat.png", "text": "Question: what is this? Answer:"}]}; images are
relative to it; `name` and `max_new_tokens` are optional.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--checkpoint", required=True, metavar="DIR|ID", help="the checkpoint it was exported from")
    parser.add_argument("--revision", help="branch, tag or commit of the hub's repository; only with an id")
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the bundle to verify")
    parser.add_argument("--cases", type=Path, metavar="FILE", help="images and prompts (default: drawn ones)")
    parser.add_argument(
        "--golden", type=_count, default=8, metavar="N", help="golden answers to keep in the bundle (default: 8)"
    )
    parser.add_argument(
        "--beams", type=_beams, default=5, metavar="N", help="width of beam search; 0 leaves it out (default: 5)"
    )
    parser.add_argument(
        "--beam-cases",
        type=_count,
        default=4,
        metavar="N",
        help="the first N cases are also answered by beam search, each in three ways (default: 4)",
    )
    parser.add_argument(
        "--provider",
        choices=("cpu", "cuda", "tensorrt"),
        default="cpu",
        help="execution provider; tensorrt leaves the decoder to cuda; both need onnxruntime-gpu (default: cpu)",
    )
    parser.add_argument("--device-id", type=_count, default=0, metavar="N", help="the GPU to use (default: 0)")
    parser.add_argument(
        "--reference-device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="device that runs transformers (default: cpu)",
    )


def run(options: argparse.Namespace) -> int:
    """Verifies the bundle."""
    from blip2_export.checkpoint.location import local_folder
    from blip2_export.inference.providers import Provider
    from blip2_export.verification.verify import Where, verify
    from blip2_export.verification.workload import BeamPlan

    beams = BeamPlan(options.beams, options.beam_cases)
    checkpoint = local_folder(options.checkpoint, options.revision)
    where = Where(Provider(options.provider, options.device_id), options.reference_device)
    return 0 if verify(checkpoint, options.bundle, options.cases, options.golden, beams, where) else 1


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _beams(text: str) -> int:
    value = _count(text)
    if value == 1:
        raise argparse.ArgumentTypeError("must be 0 or at least 2: one beam is the greedy answer")
    return value
