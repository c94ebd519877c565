"""The command line. Exit codes: 0 done, 1 the bundle disagrees with the reference, 2 usage or fatal.

The commands import what they need when they run: `export` works without torch, and `--help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from blip2_export import __version__
from blip2_export.contract import PRECISIONS, TARGETS
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

FATAL = 2
# Command -> module below `shapes`, and what it does.
SHAPES = {
    "train-shapes": ("train", "train the tiny model on drawn scenes of coloured shapes"),
    "draw-shapes": ("draw", "draw unseen scenes with questions, as pictures and a cases file for verify"),
    "evaluate-shapes": ("evaluate", "measure the tiny model on unseen scenes"),
}

EXPORT_HELP = """\
Writes the three graphs, the tokenizer and the manifest of a checkpoint into a folder, for `blip2` to serve.

The checkpoint is a folder as downloaded from the hub: config.json, safetensors (one file or several with
their index), preprocessor_config.json, and tokenizer.json or vocab.json with merges.txt. Decoders other than
OPT are refused. The output folder is written beside its final place and renamed, so it is either whole or
absent.
"""
EXPORT_EXAMPLES = """\
examples:
  python -m blip2_export export --checkpoint blip2-opt-2.7b --output onnx/blip2-opt-2.7b-int8 --precision int8
  python -m blip2_export export --checkpoint blip2-opt-2.7b --output onnx/blip2-opt-2.7b-fp32 --precision fp32
"""
VERIFY_HELP = """\
Compares a bundle with transformers (fp32, CPU, one row at a time), stage by stage and over whole greedy
answers, and checks what a server relies on: unequal rows in one batch, in-place KV buffers, continuation of a
prefix.

Prints a table and writes parity.json and golden/ into the bundle. Exit code 1 means that the bundle
disagrees. Needs the extra `reference`: pip install 'blip2-export[reference]'.
"""
VERIFY_EXAMPLES = """\
example:
  python -m blip2_export verify --checkpoint blip2-opt-2.7b --bundle onnx/blip2-opt-2.7b-int8

A cases file: {"cases": [{"image": "cat.png", "text": "Question: what is this? Answer:"}]}; pictures are
relative to it; `name` and `max_new_tokens` are optional.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    parser = _parser()
    options, options.rest = parser.parse_known_args(arguments)
    if options.rest and options.command not in SHAPES:
        parser.error(f"unrecognized arguments: {' '.join(options.rest)}")
    try:
        return options.run(options)
    except ExportError as error:
        print(f"blip2_export {options.command}: {error}", file=sys.stderr)
        return FATAL


def _parser() -> argparse.ArgumentParser:
    description = "Exports BLIP-2 checkpoints to ONNX Runtime bundles and verifies them."
    parser = argparse.ArgumentParser(prog="python -m blip2_export", description=description)
    parser.add_argument("--version", action="version", version=f"blip2_export {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_export(commands)
    _add_verify(commands)
    for name, (_, summary) in SHAPES.items():
        _add_shapes(commands, name, summary)
    return parser


def _add_command(
    commands: argparse._SubParsersAction, name: str, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_export(commands: argparse._SubParsersAction) -> None:
    command = _add_command(commands, "export", "write a bundle from a checkpoint", EXPORT_HELP, EXPORT_EXAMPLES)
    command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="folder with config.json")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--target", choices=TARGETS, default="cpu", help="where it will run (default: cpu)")
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="fp32: the reference. int8: 8-bit weights and activations, the Q-Former in fp32 (default: int8)",
    )
    command.add_argument("--name", help="name of the bundle (default: the checkpoint's)")
    command.add_argument("--force", action="store_true", help="replace the bundle in --output")
    command.set_defaults(run=_run_export)


def _run_export(options: argparse.Namespace) -> int:
    from blip2_export.export import ExportOptions, export

    fields = ("checkpoint", "output", "target", "precision", "name", "force")
    export(ExportOptions(**{field: getattr(options, field) for field in fields}))
    return 0


def _add_verify(commands: argparse._SubParsersAction) -> None:
    command = _add_command(commands, "verify", "compare a bundle with transformers", VERIFY_HELP, VERIFY_EXAMPLES)
    command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="what it was exported from")
    command.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the bundle to verify")
    command.add_argument("--cases", type=Path, metavar="FILE", help="pictures and prompts (default: drawn ones)")
    command.add_argument(
        "--golden",
        type=_count,
        default=8,
        metavar="N",
        help="golden answers to keep in the bundle (default: 8)",
    )
    command.set_defaults(run=_run_verify)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _run_verify(options: argparse.Namespace) -> int:
    _need_reference()
    from blip2_export.verify import verify

    return 0 if verify(options.checkpoint, options.bundle, options.cases, options.golden) else 1


def _need_reference() -> None:
    try:
        importlib.import_module("torch")
        importlib.import_module("transformers")
    except ImportError as error:
        raise ExportError(
            f"{error.name} is missing; install the extra `reference`: pip install 'blip2-export[reference]'"
        ) from error


def _add_shapes(commands: argparse._SubParsersAction, name: str, summary: str) -> None:
    """Commands of `blip2_export.shapes`, whose modules bring their own arguments.

    The modules are imported only when such a command, or its help, is asked for: training needs torch.
    """
    command = commands.add_parser(name, help=summary, add_help=False)
    command.set_defaults(run=_run_shapes)


def _run_shapes(options: argparse.Namespace) -> int:
    if options.command == "train-shapes":
        _need_reference()
    module = importlib.import_module(f"blip2_export.shapes.{SHAPES[options.command][0]}")
    parser = argparse.ArgumentParser(
        prog=f"python -m blip2_export {options.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args(options.rest)) or 0
