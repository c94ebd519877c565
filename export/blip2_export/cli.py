"""The command line. Exit codes: 0 success, 1 a negative result (see the command), 2 usage or fatal, 130 interrupted.

Each command is a module with `add_arguments` and `run`, whose docstring is its help. It is imported only when it or its
help is asked for: `export` works without torch, and `--help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from blip2_export import __version__
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

FATAL = 2
INTERRUPTED = 130
# Command -> module, and what it does.
COMMANDS = {
    "export": ("commands.export", "write a bundle from a checkpoint"),
    "check": ("commands.check", "compare the files of a bundle with the hashes in its manifest"),
    "model": ("commands.model", "download, export, check, and say how to serve it"),
    "verify": ("commands.verify", "compare a bundle with transformers"),
    "describe": ("commands.describe", "write a bundle's model card, bill of materials and MLmodel anew"),
    "register": ("commands.register", "register a bundle with Azure Machine Learning or MLflow"),
    "evaluate": ("commands.evaluate", "measure a served bundle on VQAv2 questions or COCO captions"),
    "make-checkpoint": ("commands.make_checkpoint", "write a synthetic checkpoint of the real dimensions"),
    "train-shapes": ("commands.train_shapes", "train the tiny model on drawn scenes of coloured shapes"),
    "draw-shapes": (
        "commands.draw_shapes",
        "draw unseen scenes with questions: images and a cases file for verify",
    ),
    "evaluate-shapes": ("commands.evaluate_shapes", "measure the tiny model on unseen scenes"),
}
NEED_REFERENCE = ("verify", "train-shapes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    chosen, rest = _parser().parse_known_args(arguments)
    module = importlib.import_module(f"blip2_export.{COMMANDS[chosen.command][0]}")
    parser = argparse.ArgumentParser(
        prog=f"python -m blip2_export {chosen.command}",
        description=module.__doc__,
        epilog=getattr(module, "EXAMPLES", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    options = parser.parse_args(rest)
    # A command that is stopped cleans up, as after Ctrl-C.
    usual = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if chosen.command in NEED_REFERENCE:
            _need_reference()
        return module.run(options) or 0
    except (ExportError, OSError) as error:
        print(f"blip2_export {chosen.command}: {_line(error)}", file=sys.stderr)
        return FATAL
    except KeyboardInterrupt:
        print(f"blip2_export {chosen.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, usual)


def _parser() -> argparse.ArgumentParser:
    description = "Exports BLIP-2 checkpoints to ONNX Runtime bundles, and verifies and measures them."
    parser = argparse.ArgumentParser(prog="python -m blip2_export", description=description)
    parser.add_argument("--version", action="version", version=f"blip2_export {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _line(error: Exception) -> str:
    """Returns an error as one line. An error of the system is shown without its class and number."""
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename
        return f"{place}: {error.strerror}" if place else error.strerror
    return str(error)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _need_reference() -> None:
    try:
        importlib.import_module("torch")
        importlib.import_module("transformers")
    except ImportError as error:
        raise ExportError(
            f"{error.name} is missing; install the extra `reference`: pip install 'blip2-export[reference]'"
        ) from error
