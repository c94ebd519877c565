"""Asks a running server about scenes that training has never seen, and counts right answers.

An answer is right when it equals the expected text exactly. Needs no torch. Exit code 1 means that the share of right
answers is below --at-least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--url", default="http://127.0.0.1:5001/score", help="scoring route of the server")
    parser.add_argument("--scenes", type=int, default=1000, help="unseen scenes, seven answers each")
    parser.add_argument("--at-least", type=float, default=0.0, help="percentage below which the exit code is 1")


def run(options: argparse.Namespace) -> int:
    """Evaluates the server."""
    from blip2_export.shapes.evaluate import evaluate

    return 0 if evaluate(options.url, options.scenes) >= options.at_least else 1
