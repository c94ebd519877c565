"""The command line: prepare, run, render."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from blip2_export.checkpoint.config import parse_config
from compare import machine
from compare.cases import BY_NAME, KINDS, CaseKind, cases_of_round
from compare.contenders import BundleContender, Contender, Place, TransformersContender
from compare.errors import CompareError
from compare.page import write_page
from compare.rates import Rates, measure_rates
from compare.results import VERSION, Json, Results
from compare.rounds import Plan, run_rounds
from compare.work import Floors, Work, case_floor_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benches" / "results"
PRECISIONS = ("fp32", "int8", "int4")
PREPARED_BYTES = 35e9  # checkpoint 7.5, fp32 15, int8 4, int4 3.2, and what is written beside before it is renamed
EXAMPLES = """\
examples, from benches/:
  python -m compare prepare --folder ../.bench
  python -m compare run --checkpoint ../.bench/checkpoint --bundles ../.bench/fp32 ../.bench/int8 ../.bench/int4
  python -m compare run --quick                     the whole path on the tiny committed model, in a minute
  python -m compare run … --transformers bf16 bf16+compile bf16+int8-weights --rounds 1
  python -m compare run … --device cuda --provider cuda --transformers fp16 fp16+compile
  python -m compare run … --resume                  after a run that broke
  python -m compare render results/2026-11-24-epyc/results.json

A default run takes about half an hour on two cores. Stop whatever else runs on the machine: the page names runs that
had company. Results are saved after every contender of every round.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends with 1 and a line on stderr when it cannot go on."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except CompareError as error:
        sys.exit(f"compare: {error}")
    except KeyboardInterrupt:
        sys.exit("compare: interrupted; `--resume` goes on behind the last whole run")


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    about = "Measures transformers and `blip2 serve` side by side, in one run, on the same checkpoint and pictures."
    parser = argparse.ArgumentParser(prog="compare", description=about, epilog=EXAMPLES, formatter_class=formatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands.add_parser("prepare", help="make the synthetic checkpoint and the bundles that are missing"))
    _add_run(commands.add_parser("run", help="measure", description=_run_help(), formatter_class=formatter))
    render = commands.add_parser("render", help="write page and charts of a results.json again, beside it")
    render.add_argument("results", type=Path, metavar="FILE")
    render.set_defaults(run=lambda options: _render(options.results))
    return parser


def _run_help() -> str:
    cases = "\n".join(f"  {kind.name:<14} {kind.title}{'' if kind.is_quick else ' *'}" for kind in KINDS)
    return (
        "Starts every contender once a round, one at a time, and asks it the cases:\n\n"
        f"{cases}\n\n* not asked of slow contenders (--slow), which also ask alone only once a round."
    )


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="checkpoint and bundles lie in it")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="a real one to copy (default: a made-up one)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="P")
    parser.set_defaults(run=_prepare)


def _add_run(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("contenders")
    what.add_argument("--checkpoint", type=Path, metavar="DIR", help="for transformers, as from the hub")
    what.add_argument("--bundles", type=Path, nargs="*", default=[], metavar="DIR", help="exported from it")
    transformers = "types for transformers, each with +compile, +int8-weights or +int8-dynamic (torchao)"
    what.add_argument("--transformers", nargs="*", metavar="SPEC", help=f"{transformers} (default: fp32 bf16)")
    slow = "run the quick cases only (default: those with fp32 or + in their name)"
    what.add_argument("--slow", nargs="*", metavar="NAME", help=slow)
    what.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/blip2", metavar="FILE")
    library = Path(os.environ.get("ORT_DYLIB_PATH", REPOSITORY / ".ort/libonnxruntime.so"))
    what.add_argument("--ort-library", type=Path, default=library, metavar="FILE", help="default: ORT_DYLIB_PATH")
    what.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of transformers, and of the floors")
    what.add_argument("--provider", metavar="P", help="passed on to `blip2 serve` (default: not passed)")
    cores = len(os.sched_getaffinity(0))
    what.add_argument("--threads", type=int, default=cores, metavar="N", help="of each (default: all cores)")
    how = parser.add_argument_group("run")
    how.add_argument("--cases", nargs="+", choices=BY_NAME, default=list(BY_NAME), metavar="CASE", help="see above")
    how.add_argument("--rounds", type=_positive, default=3, metavar="N", help="(default: 3)")
    how.add_argument(
        "--repeats", type=_positive, default=2, metavar="N", help="of requests alone, a round (default: 2)"
    )
    how.add_argument("--minutes", type=float, metavar="M", help="start nothing that would not end within so many")
    how.add_argument("--quick", action="store_true", help="the tiny committed model, one round, into .bench/quick")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="default: results/<date>-<machine>")
    output.add_argument("--machine", metavar="NAME", help="for the folder's name (default: from the processor or GPU)")
    output.add_argument("--resume", action="store_true", help="go on with the results that lie there")
    output.add_argument("--force", action="store_true", help="write over the results that lie there")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _prepare(options: argparse.Namespace) -> None:
    checkpoint: Path = options.folder / "checkpoint"
    missing = [precision for precision in options.precisions if not (options.folder / precision).is_dir()]
    options.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.folder).free
    present = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    if (missing or not checkpoint.is_dir()) and free + present < PREPARED_BYTES:
        needed, there = PREPARED_BYTES / 1e9, (free + present) / 1e9
        raise CompareError(
            f"{options.folder}: needs {needed:.0f} GB, {there:.0f} are there; set BENCH_DIR to a larger disk"
        )
    if not checkpoint.is_dir():
        tokenizer = ["--tokenizer", str(options.tokenizer)] if options.tokenizer else []
        _export("make-checkpoint", "--output", str(checkpoint), *tokenizer)
    for precision in missing:
        bundle = str(options.folder / precision)
        _export("export", "--checkpoint", str(checkpoint), "--output", bundle, "--precision", precision)


def _export(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "blip2_export", *arguments], cwd=REPOSITORY / "export")
    if done.returncode:
        raise CompareError(f"blip2_export {arguments[0]} ended with {done.returncode}")


def _run(options: argparse.Namespace) -> None:
    if options.quick:
        _make_quick(options)
    contenders = _contenders(options)
    about = machine.describe(options.device)
    kinds = [BY_NAME[name] for name in options.cases]
    folder = _output_folder(options, about)
    path = folder / "results.json"
    slow = _slow(options, contenders)
    plan = Plan(contenders, kinds, slow, options.rounds, options.repeats, options.minutes)
    if options.resume and path.is_file():
        results = Results.read(path)
        _check_same(results, contenders, kinds)
    else:
        results = _new_results(options, contenders, kinds, about)
    with TemporaryDirectory(prefix="compare-") as scratch:
        # Logs name paths, so they stay out of the results.
        place = Place(Path(scratch), _logs(), options.threads, options.device)
        failed = run_rounds(plan, place, results, path, lambda: _take_rates(options, plan, results))
    write_page(results, folder)
    print(folder / "README.md")
    if failed:
        raise CompareError(f"measured without {', '.join(failed)}, see above; --resume tries again")


def _make_quick(options: argparse.Namespace) -> None:
    onnx = REPOSITORY / "onnx"
    options.checkpoint = options.checkpoint or onnx / "checkpoint"
    options.bundles = options.bundles or [onnx / "blip2-shapes", onnx / "blip2-shapes-int8"]
    options.output = options.output or REPOSITORY / ".bench" / "quick"
    options.slow, options.rounds, options.force = [], 1, not options.resume


def _contenders(options: argparse.Namespace) -> list[Contender]:
    default = ["fp32", "bf16" if options.device == "cpu" else "fp16"]
    specs = default if options.transformers is None else options.transformers
    if specs and not options.checkpoint:
        raise CompareError("--checkpoint is missing; `python -m compare prepare` makes one")
    contenders: list[Contender] = [TransformersContender(spec, options.checkpoint.resolve()) for spec in specs]
    for bundle in options.bundles:
        binary, library = options.binary.resolve(), options.ort_library.resolve()
        contenders.append(BundleContender(bundle.resolve(), binary, library, options.provider))
        for file in (binary, library):
            if not file.is_file():
                raise CompareError(f"{file}: not there; `make build` makes it")
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise CompareError(f"contenders must differ, and there must be one: {', '.join(names) or 'none'}")
    return contenders


def _slow(options: argparse.Namespace, contenders: Sequence[Contender]) -> frozenset[str]:
    names = [contender.name for contender in contenders]
    if options.slow is None:
        return frozenset(name for name in names if "fp32" in name or "+" in name)
    if unknown := set(options.slow) - set(names):
        raise CompareError(f"--slow: no contender is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return frozenset(options.slow)


def _output_folder(options: argparse.Namespace, about: Json) -> Path:
    date = time.strftime("%Y-%m-%d")
    folder: Path = options.output or RESULTS / f"{date}-{options.machine or machine.slug(about)}"
    if (folder / "README.md").exists() and not (folder / "results.json").exists():
        folder /= "compare"  # somebody's own page lies there
    if (folder / "results.json").exists() and not (options.resume or options.force):
        raise CompareError(f"{folder}: holds results already; --resume goes on, --force writes over them")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _logs() -> Path:
    folder = REPOSITORY / ".bench" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        log.unlink()
    return folder


def _check_same(results: Results, contenders: Sequence[Contender], kinds: Sequence[CaseKind]) -> None:
    if results.contenders != [contender.name for contender in contenders]:
        raise CompareError(f"--resume: the results are of {', '.join(results.contenders)}; give the same contenders")
    if list(results.cases) != [kind.name for kind in kinds]:
        raise CompareError(f"--resume: the results have the cases {' '.join(results.cases)}; give the same")


def _new_results(
    options: argparse.Namespace, contenders: Sequence[Contender], kinds: Sequence[CaseKind], about: Json
) -> Results:
    document = {
        "version": VERSION,
        "date": time.strftime("%Y-%m-%d"),
        "commit": machine.commit(REPOSITORY),
        "machine": about,
        "versions": machine.versions(),
        "device": options.device,
        "threads": options.threads,
        "checkpoint": options.checkpoint.resolve().name if options.checkpoint else options.bundles[0].resolve().name,
        "rates": {},
        "contenders": {contender.name: {"precisions": contender.precisions} for contender in contenders},
        "cases": {kind.name: _about(kind) for kind in kinds},
        "floors": {},
        "runs": [],
    }
    return Results(document)


def _take_rates(options: argparse.Namespace, plan: Plan, results: Results) -> None:
    """Every round anew, as speed drifts. The best counts, because nothing is faster than its floor."""
    with_torch = any(isinstance(contender, TransformersContender) for contender in plan.contenders)
    known = results.document["rates"]
    for name, rate in measure_rates(options.threads, options.device, with_torch=with_torch).items():
        known[name] = max(rate, known.get(name, 0.0))
    results.document["floors"] = _floors(options, plan.contenders, plan.kinds, known)


def _about(kind: CaseKind) -> Json:
    asks = cases_of_round(0, [kind], 1)[0].passes[0]
    new_tokens = sum(ask.new_tokens for ask in asks)
    return {"title": kind.title, "manner": kind.manner.value, "rows": len(asks), "new_tokens": new_tokens}


def _floors(
    options: argparse.Namespace, contenders: Sequence[Contender], kinds: Sequence[CaseKind], rates: Rates
) -> Json:
    """By contender: seconds of every case, and milliseconds of the stages. Empty without a checkpoint's dimensions."""
    files = [folder / "tokenizer.json" for folder in (*options.bundles, options.checkpoint) if folder]
    file = next((file for file in files if file.is_file()), None)
    if options.checkpoint is None or file is None:
        return {}
    config = parse_config(json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8")))
    passes = {kind.name: (kind, cases_of_round(0, [kind], 1)[0].passes[0]) for kind in kinds}
    texts = {ask.text for _, asks in passes.values() for ask in asks}
    tokenizer = Tokenizer.from_file(str(file))
    # Positions of each text, with the token that begins it.
    lengths = {text: len(tokenizer.encode(text).ids) for text in texts}
    work = Work.of(config)
    return {
        contender.name: _floors_of(Floors(work, contender.precisions, rates), passes, lengths)
        for contender in contenders
    }


def _floors_of(floors: Floors, passes: Mapping, lengths: Mapping[str, int]) -> Json:
    text = max(lengths.values())
    positions = floors.work.prefix + text
    return {
        "cases": {name: case_floor_s(floors, kind.manner, asks, lengths) for name, (kind, asks) in passes.items()},
        "stages_ms": {
            "vision_encoder": floors.encode_s() * 1000,
            "qformer": floors.qformer_s() * 1000,
            "prefill": floors.prefill_s([positions]) * 1000,
            "step": floors.step_s([positions + 8]) * 1000,
        },
    }


def _render(path: Path) -> None:
    write_page(Results.read(path), path.parent)
    print(path.parent / "README.md")
