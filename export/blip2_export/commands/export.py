"""Writes the three graphs, the tokenizer and the manifest of a checkpoint into a folder, for `blip2` to serve.

The checkpoint is a folder as downloaded from the hub: config.json, safetensors in f32, f16 or bf16 (one file or
several with their index), preprocessor_config.json, and tokenizer.json or vocab.json with merges.txt; or an id of
the hub, which is downloaded (extra `hub`). Decoders other than OPT are refused.

  target     precision
  cpu        fp32: the reference. int8 (default): 8-bit weights and activations. int4: 4-bit weights in the decoder,
             the encoder in int8; the smallest, and the fastest at one request at a time
  cuda       fp16 (default); int8, int4: 8- or 4-bit weights in the decoder, the encoder in fp16
  tensorrt   as cuda, with encoder and Q-Former in standard ONNX operators

The Q-Former stays in fp32 everywhere. Weights are read and written one layer at a time, so memory use does not depend
on the size of the checkpoint. The output folder is written under a temporary name and renamed, so it is either
complete or absent. The same input gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blip2_export.graph.precision import CHOICES, DEFAULT_PRECISION, PRECISIONS, TARGETS

if TYPE_CHECKING:
    import argparse

EXAMPLES = """\
examples:
  python -m blip2_export export --checkpoint blip2-opt-2.7b --output onnx/blip2-opt-2.7b-int8
  python -m blip2_export export --checkpoint Salesforce/blip2-opt-2.7b --output onnx/int4 --precision int4
  python -m blip2_export export --checkpoint blip2-opt-2.7b --output onnx/cuda --target cuda --decoder-precision int4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="DIR|ID", help="folder with config.json, or an id of the hub"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the hub's repository; only with an id")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--target", choices=TARGETS, default="cpu", help="hardware that the bundle is for (default: cpu)"
    )
    defaults = ", ".join(f"{target}: {precision}" for target, precision in DEFAULT_PRECISION.items())
    parser.add_argument("--precision", choices=PRECISIONS, help=f"see above (default: {defaults})")
    for stage in ("vision_encoder", "decoder"):
        offered = "; ".join(f"{target}: {', '.join(getattr(CHOICES[target], stage))}" for target in ("cpu", "cuda"))
        parser.add_argument(
            f"--{stage.replace('_', '-')}-precision",
            choices=PRECISIONS,
            metavar="P",
            help=f"this stage alone ({offered})",
        )
    parser.add_argument(
        "--rounding",
        choices=("optimized", "nearest"),
        default="optimized",
        help="rounding of weights in groups: search for the least error, or round to nearest (default: optimized)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="folder with images, and cases.json or prompts.txt: round 4-bit weights by GPTQ for such inputs",
    )
    parser.add_argument("--name", help="name of the bundle (default: the checkpoint's)")
    parser.add_argument("--force", action="store_true", help="replace the bundle in --output")


def run(options: argparse.Namespace) -> int:
    """Exports the checkpoint."""
    from dataclasses import fields

    from blip2_export.bundle.writer import ExportOptions, export
    from blip2_export.checkpoint.location import local_folder

    options.checkpoint = local_folder(options.checkpoint, options.revision)
    export(ExportOptions(**{field.name: getattr(options, field.name) for field in fields(ExportOptions)}))
    return 0
