"""Draws scenes that training has never seen, with questions about them, as a cases file for `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the images and cases.json")
    parser.add_argument("--scenes", type=int, default=24, help="number of scenes, five prompts each")


def run(options: argparse.Namespace) -> int:
    """Draws the scenes."""
    from blip2_export.shapes.draw import CASES, draw_cases

    count = draw_cases(options.output, options.scenes)
    print(f"{count} cases in {options.output / CASES}")
    return 0
