"""Measures a served model on VQAv2-format questions or COCO captions.

Asks a running server (`blip2 serve`) over HTTP and prints the VQA accuracy, or CIDEr with BLEU and ROUGE-L. Appends
every answer to --output as it arrives; the same command resumes a run that was stopped. By default the server decides
on generation: greedy, 20 new tokens.

Exit code 1 means that some rows were refused: they count as wrong, and the next run asks them again. Captions need the
extra `evaluate`: pip install 'blip2-export[evaluate]'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2_export.errors import ExportError
from blip2_export.progress import progress

if TYPE_CHECKING:
    from blip2_export.evaluation.results import Results
    from blip2_export.evaluation.settings import Settings
    from blip2_export.evaluation.tasks import Task

EXAMPLES = """\
examples:
  python -m blip2_export evaluate --task vqa --images val2014 --output vqa.jsonl \\
      --questions v2_OpenEnded_mscoco_val2014_questions.json --annotations v2_mscoco_val2014_annotations.json
  python -m blip2_export evaluate --task captions --images val2017 --output captions.jsonl \\
      --annotations captions_val2017.json
  python -m blip2_export evaluate … --limit 1000 --params '{"max_new_tokens": 10}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--url", default="http://127.0.0.1:5001", help="the server (default: %(default)s)")
    parser.add_argument("--task", choices=("vqa", "captions"), required=True, help="the task to ask and score")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="vqa: the questions")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="the annotators' answers (vqa: optional; without it nothing is scored)",
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the answers, as JSON lines")
    parser.add_argument("--limit", type=_count, metavar="N", help="ask only the first N questions or images")
    parser.add_argument(
        "--concurrency", type=_count, default=8, metavar="N", help="number of rows in flight (default: %(default)s)"
    )
    parser.add_argument(
        "--template",
        metavar="TEXT",
        help="the prompt; {} is the question (default: 'Question: {} Answer:', for captions none)",
    )
    parser.add_argument("--params", type=_params, metavar="JSON", help="generation parameters of docs/api.md")
    parser.add_argument("--preset", choices=("paper", "lavis"), help="template and parameters of published figures")
    parser.add_argument(
        "--image-name",
        metavar="PATTERN",
        help="vqa: file name by image_id (default: that of COCO 2014, such as COCO_val2014_{:012}.jpg)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("nltk", "stanford"),
        default="nltk",
        help="captions: the tokenizer; stanford is the official one and needs Java (default: %(default)s)",
    )
    parser.add_argument("--name", default="", help="name of the measured model; a file holds answers of one name only")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=120,
        metavar="S",
        help="time limit for one answer, in seconds (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Asks the unanswered rows, prints the result, and returns the exit code."""
    from blip2_export.evaluation.results import Results
    from blip2_export.evaluation.settings import choose_settings

    settings = choose_settings(options.task, options.preset, options.template, options.params)
    task = _task(options, settings)
    header = {"task": options.task, "name": options.name, **task.record(), **settings.record()}
    with Results(options.output, header, task.id_key, task.answer_key) as results:
        try:
            _ask(options, settings, task, results)
        except KeyboardInterrupt:
            progress(f"{len(results.answers)} answers are in {options.output}; run the same command again to resume")
            raise
    print(task.report(results.answers))
    return _report_errors(task, results)


def _task(options: argparse.Namespace, settings: Settings) -> Task:
    from blip2_export.evaluation.caption_metrics import need_metrics
    from blip2_export.evaluation.tasks import CaptionTask, VqaTask

    if options.task == "vqa":
        if options.questions is None:
            raise ExportError("--task vqa needs --questions")
        return VqaTask(
            options.questions, options.annotations, options.images, settings, options.image_name, options.limit
        )
    if options.annotations is None or options.questions is not None:
        raise ExportError("--task captions needs --annotations, a captions file of COCO, and takes no --questions")
    need_metrics()
    return CaptionTask(options.annotations, options.images, settings, options.tokenizer, options.limit)


def _ask(options: argparse.Namespace, settings: Settings, task: Task, results: Results) -> None:
    from blip2_export.evaluation.asking import ask
    from blip2_export.evaluation.client import ScoreClient

    if results.dropped_bytes:
        progress(f"{options.output}: dropped {results.dropped_bytes} bytes of a line that was cut off")
    client = ScoreClient(options.url, settings.params, options.timeout)
    missing = [sample for sample in task.samples if sample.id not in results.answers]
    answered = len(task.samples) - len(missing)
    if answered:
        progress(f"{answered} of {len(task.samples)} are answered in {options.output}; asking the other {len(missing)}")
    ask(client, task, missing, results, options.concurrency)


def _report_errors(task: Task, results: Results) -> int:
    refused = [sample.id for sample in task.samples if sample.id in results.errors]
    if not refused:
        return 0
    progress(
        f"{len(refused)} of {len(task.samples)} rows were refused and count as wrong; the first, {refused[0]}: "
        f"{results.errors[refused[0]]}"
    )
    return 1


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _params(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('must be a JSON object, such as {"max_new_tokens": 10}')
    return value
