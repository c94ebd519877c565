"""The baseline: what transformers needs for the same requests on the same checkpoint and processor.

Run by hand beside a measurement of `blip2`, with the extra `reference` of `export/` installed:

    python benches/transformers_baseline.py --checkpoint blip2-opt-2.7b --dtype bf16 > baseline.json

A request is measured from the bytes of its picture to the text of its answer: decoding, preprocessing, a greedy
search that makes exactly 17 new tokens, and the decoding of those. Pictures are noise, so nothing has to be
downloaded, and no weights of meaning are needed: forced to its length, an answer takes the same time whatever it
says. Every case is run briefly first, so that no time contains the making of kernels.

    single      one request
    batch8      eight pictures with the same question, as one static batch
    ten-single  ten questions about one picture, one after the other
    ten-batch   the same as one static batch, padded on the left

This file must not import `blip2_export`: it measures what a user of transformers would write.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_blip import BlipImageProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

THREADS = 2
NEW_TOKENS = 17
WARM_UP_TOKENS = 2  # a prefill and a decode step
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
WIDTH, HEIGHT = 640, 480
CPU_INFO = Path("/proc/cpuinfo")
CPU_TIMES = Path("/proc/stat")
# What decides which kernels torch takes for a type.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PROMPT = "Question: what is in the picture? Answer:"
QUESTIONS = (
    "what is this?",
    "what is in the picture?",
    "how many people are there?",
    "what color is the largest object?",
    "is it day or night?",
    "where was this picture taken?",
    "is there an animal, and what is it doing?",
    "what is on the left?",
    "what is the weather like?",
    "is this indoors or outdoors?",
)


@dataclass(frozen=True)
class Batch:
    """Rows that are answered by one call of `generate`: a picture, as the bytes of a file, and a text each."""

    pictures: Sequence[bytes]
    texts: Sequence[str]


@dataclass(frozen=True)
class Run:
    """One pass over a case. Beside a busy neighbour torch waits at every barrier, and the time says little."""

    seconds: float
    other_cores: float


class Baseline:
    """The only copy of the model in memory, with its processor."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.processor = _processor(checkpoint)
        self.model, report = Blip2ForConditionalGeneration.from_pretrained(
            checkpoint, dtype=dtype, output_loading_info=True
        )
        self.model.eval()
        if report["missing_keys"]:
            raise SystemExit(f"{checkpoint}: {len(report['missing_keys'])} tensors are missing")

    @torch.inference_mode()
    def answer(self, batch: Batch, new_tokens: int) -> list[str]:
        """The answers to all rows of a batch, each of exactly `new_tokens` tokens."""
        images = [Image.open(BytesIO(picture)).convert("RGB") for picture in batch.pictures]
        inputs = self.processor(images=images, text=list(batch.texts), padding=True, return_tensors="pt").to(self.dtype)
        tokens = self.model.generate(
            **inputs, do_sample=False, num_beams=1, min_new_tokens=new_tokens, max_new_tokens=new_tokens
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        if new.shape != (len(images), new_tokens):
            raise SystemExit(f"asked for {len(images)} x {new_tokens} new tokens, got {tuple(new.shape)}")
        return self.processor.batch_decode(new, skip_special_tokens=True)

    def measure(self, batches: Sequence[Batch], repeats: int) -> Json:
        """The time from the first byte of the first batch to the last answer of the last one."""
        for batch in batches:
            self.answer(batch, WARM_UP_TOKENS)
        runs = [self._run(batches) for _ in range(repeats)]
        seconds = median(run.seconds for run in runs)
        requests = sum(len(batch.texts) for batch in batches)
        return {
            "requests": requests,
            "seconds": round(seconds, 4),
            "requests_per_second": round(requests / seconds, 4),
            "all_seconds": [round(run.seconds, 4) for run in runs],
            "cores_used_by_others": [round(run.other_cores, 2) for run in runs],
        }

    def _run(self, batches: Sequence[Batch]) -> Run:
        start, busy_before = time.perf_counter(), _busy_elsewhere()
        for batch in batches:
            self.answer(batch, NEW_TOKENS)
        seconds = time.perf_counter() - start
        return Run(seconds, max(0.0, _busy_elsewhere() - busy_before) / seconds)


def main() -> None:
    """Measures the cases that were asked for and prints one JSON object."""
    options = _options()
    torch.set_num_threads(THREADS)
    transformers.utils.logging.disable_progress_bar()
    baseline = Baseline(options.checkpoint, DTYPES[options.dtype])
    results = {}
    for name in options.cases:
        results[name] = baseline.measure(CASES[name], options.repeats)
        print(f"{name}: {results[name]['seconds']} s", file=sys.stderr)
    report = {
        "what": "transformers, greedy, preprocessing included",
        "checkpoint": options.checkpoint.resolve().name,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "new_tokens": NEW_TOKENS,
        "picture": [WIDTH, HEIGHT],
        "repeats": options.repeats,
        "machine": _machine(),
        "versions": _versions(),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cases": results,
    }
    print(json.dumps(report, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="folder as from the hub")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of the weights (default: %(default)s)")
    parser.add_argument("--repeats", type=_positive, default=3, metavar="N", help="a case takes the median of N")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="see above")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _processor(checkpoint: Path) -> Blip2Processor:
    """The processor out of its parts: a synthetic checkpoint has no file that names their classes.

    Padding is on the left. On the right, the tokenizer's default, a padded row gets another answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, pad_token="<pad>", padding_side="left")
    queries = AutoConfig.from_pretrained(checkpoint).num_query_tokens
    return Blip2Processor(BlipImageProcessor.from_pretrained(checkpoint), tokenizer, num_query_tokens=queries)


def _noise(seed: int) -> bytes:
    """A picture of noise as the bytes of a PNG file, the same on every machine."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _cases() -> dict[str, Sequence[Batch]]:
    pictures = [_noise(seed) for seed in range(8)]
    questions = [f"Question: {question} Answer:" for question in QUESTIONS]
    same = [pictures[0]] * len(questions)
    return {
        "single": [Batch(pictures[:1], [PROMPT])],
        "batch8": [Batch(pictures, [PROMPT] * len(pictures))],
        "ten-single": [Batch([picture], [text]) for picture, text in zip(same, questions, strict=True)],
        "ten-batch": [Batch(same, questions)],
    }


def _busy_elsewhere() -> float:
    """Seconds of processor time that others than this process have used since the machine started; 0 if unknown."""
    if not CPU_TIMES.is_file():
        return 0.0
    user, nice, system = map(int, CPU_TIMES.read_text(encoding="ascii").split()[1:4])
    own = os.times()
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def _machine() -> Json:
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = about.get("flags", "").split()
    return {
        "cpu": about.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "features": [feature for feature in CPU_FEATURES if feature in flags],
    }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "transformers": transformers.__version__,
    }


CASES = _cases()

if __name__ == "__main__":
    main()
