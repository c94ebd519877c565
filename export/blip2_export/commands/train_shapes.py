"""Trains the tiny BLIP-2 on drawn scenes of coloured shapes, and saves it in the hub's layout.

Needs the extra `reference`: pip install 'blip2-export[reference]'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--minutes", type=float, default=55.0, help="time to train for; the schedule is fitted to it")
    parser.add_argument("--steps", type=int, help="number of steps, instead of --minutes (reproducible)")
    parser.add_argument("--scenes", type=int, default=32, help="scenes per step")
    parser.add_argument("--questions", type=int, default=5, help="questions per scene, beside its caption and a chat")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the scenes; every seed has its own")
    parser.add_argument("--start-from", type=Path, help="checkpoint to go on from, with another --seed")
    parser.add_argument("--check-scenes", type=int, default=512, help="unseen scenes for the closing check")


def run(options: argparse.Namespace) -> int:
    """Trains the model."""
    from dataclasses import fields

    from blip2_export.shapes.train import TrainingOptions, train

    train(TrainingOptions(**{field.name: getattr(options, field.name) for field in fields(TrainingOptions)}))
    return 0
