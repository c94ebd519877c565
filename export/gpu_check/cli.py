"""The command line."""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_check.machine import Gpu, NoGpuError, find_gpu
from gpu_check.runner import Runner, described
from gpu_check.stages import Places, stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_check.stages import Stage

REPOSITORY = Path(__file__).resolve().parents[2]
DESCRIPTION = """\
Exports, verifies, tests and benches on an NVIDIA GPU, and writes a folder with results.json and a log for every stage.

Before: make onnxruntime-gpu [TENSORRT_DIR=…] and make venv-gpu. TensorRT stages are skipped where it is not linked.
The whole needs about 45 GB of disk; --quick is done with the tiny model alone. Exit code 1: a stage failed.
"""
EXAMPLES = """\
examples, from export/:
  python -m gpu_check                                     everything; the first run makes a checkpoint of 7.5 GB
  python -m gpu_check --quick                             the tiny model alone
  python -m gpu_check --checkpoint ~/blip2-opt-2.7b       real weights instead of random ones
  python -m gpu_check --only machine libraries            some stages
  python -m gpu_check --quick --dry-run                   what would be run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stages. Returns 1 if one failed, else 0."""
    options = _parser().parse_args(arguments)
    try:
        gpu, no_gpu = find_gpu(options.device_id), ""
    except NoGpuError as error:
        gpu, no_gpu = None, str(error)
    places = _places(options, gpu)
    every = stages(places)
    unknown = {*(options.only or ()), *options.skip} - {stage.name for stage in every}
    if unknown:
        print(f"gpu_check: no stage {', '.join(sorted(unknown))}; --list names them", file=sys.stderr)
        return 2
    if options.list:
        print(*(f"{stage.name:<28} {stage.title}" for stage in every), sep="\n")
        return 0
    left_out = _left_out(every, options)
    if options.dry_run:
        _print(every, left_out, no_gpu)
        return 0
    document = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _said_by("git", "rev-parse", "HEAD"),
        "platform": platform.platform(),
        "quick": places.quick,
        **described(gpu, no_gpu),
        "versions": _versions(places),
    }
    runner = Runner(places.results, document, no_gpu, options.timeout_minutes * 60)
    try:
        all_well = runner.run(every, left_out)
    except KeyboardInterrupt:
        print(f"gpu_check: interrupted; {places.results} has what was done", file=sys.stderr)
        return 130
    print(f"wrote {places.results}")
    return 0 if all_well else 1


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m gpu_check", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=formatter
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    parser.add_argument("--skip", nargs="+", default=[], metavar="STAGE", help="all but these")
    parser.add_argument("--quick", action="store_true", help="the tiny model alone, without the real size")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="checkpoint of the real size (default: a synthetic one)"
    )
    parser.add_argument("--device-id", type=int, default=0, metavar="N", help="the GPU (default: 0)")
    work = REPOSITORY / ".gpu-check"
    parser.add_argument(
        "--work", type=Path, default=work, metavar="DIR", help="folder for the bundles (default: .gpu-check)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: WORK/results/<date>-<GPU>")
    limit = "time limit for a stage, in minutes (default: 180)"
    parser.add_argument("--timeout-minutes", type=float, default=180, metavar="M", help=limit)
    parser.add_argument("--list", action="store_true", help="list the stages and exit")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and exit")
    return parser


def _places(options: argparse.Namespace, gpu: Gpu | None) -> Places:
    work = options.work.resolve()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    results = options.output or work / "results" / f"{today}-{gpu.slug if gpu else 'no-gpu'}"
    checkpoint = options.checkpoint.resolve() if options.checkpoint else None
    return Places(REPOSITORY, work, results.resolve(), options.quick, checkpoint, options.device_id)


def _left_out(every: list[Stage], options: argparse.Namespace) -> dict[str, str]:
    only = options.only or [stage.name for stage in every]
    left_out = {stage.name: "not among --only" for stage in every if stage.name not in only}
    return left_out | dict.fromkeys(options.skip, "--skip")


def _print(every: list[Stage], left_out: dict[str, str], no_gpu: str) -> None:
    if no_gpu:
        print(f"# {no_gpu}: the stages that need a GPU would fail")
    for stage in every:
        note = left_out.get(stage.name) or ("needs a GPU" if stage.needs_gpu else "")
        print(f"# {stage.name}: {stage.title}{f' ({note})' if note else ''}")
        if stage.name not in left_out:
            print(*(command.line() for command in stage.commands), sep="\n")


def _versions(places: Places) -> dict[str, str]:
    script = (
        "import importlib.metadata as m;"
        "print(*(f'{n}={m.version(n)}' for n in ('onnxruntime-gpu', 'torch', 'transformers', 'numpy')))"
    )
    found = {"python": platform.python_version(), "cargo": _said_by("cargo", "--version")}
    said = _said_by(str(places.python), "-c", script)
    return found | dict(pair.split("=", 1) for pair in said.split() if "=" in pair)


def _said_by(*words: str) -> str:
    try:
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
