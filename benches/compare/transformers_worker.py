"""A process that answers with transformers, for `compare` to measure; it writes what a good user of transformers would.

It reads one JSON object a line and answers each with one:

    {"batches": [[{"picture": FILE, "text": TEXT, "new_tokens": N}, …], …]}  →  {"seconds": S}

Rows of a batch go through one call of `generate`, greedily and to exactly the longest of their lengths, because a
static batch goes on until its last row has ended. The clock runs from the bytes of the first picture, which lie in
memory by then, to the text of the last answer. The first line that it prints, unasked, says that the model is loaded.

This file must import neither `blip2_export` nor the rest of `compare`: it measures what others would write.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor, CompileConfig
from transformers.models.blip.image_processing_blip import BlipImageProcessor

Json = dict[str, Any]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
QUANTIZATIONS = ("int8-weights", "int8-dynamic")
WARM_UP_TOKENS = 3  # a prefill and decode steps: a compiled model is traced again for the second of them
# One size of static cache for all requests, so that another length compiles nothing. Attention reads all of it.
CACHE_POSITIONS = 96


class Transformers:
    """The only copy of the model in memory, with its processor."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.dtype, self.device = DTYPES[options.dtype], options.device
        self.processor = _processor(options.checkpoint)
        self.model, report = Blip2ForConditionalGeneration.from_pretrained(
            options.checkpoint, dtype=self.dtype, attn_implementation="sdpa", output_loading_info=True
        )
        if report["missing_keys"]:
            raise SystemExit(f"{options.checkpoint}: {len(report['missing_keys'])} tensors are missing")
        self.model.eval().to(self.device)
        if options.quantize:
            _quantize(self.model, options.quantize)
        self.generation: Json = {"do_sample": False, "num_beams": 1}
        # A compiled forward pass is made for a number of rows.
        self.compiled_rows: set[int] | None = set() if options.compile else None
        if options.compile:
            self.generation |= _compiled(self.model)

    def answer_all(self, batches: list[list[Json]]) -> float:
        """Seconds until the last row of the last batch is answered."""
        read = [[(Path(row["picture"]).read_bytes(), row["text"]) for row in batch] for batch in batches]
        lengths = [max(row["new_tokens"] for row in batch) for batch in batches]
        self._compile_for(read)
        start = time.perf_counter()
        for batch, new_tokens in zip(read, lengths, strict=True):
            self._answer(batch, new_tokens)
        return time.perf_counter() - start

    def _compile_for(self, batches: list[list[tuple[bytes, str]]]) -> None:
        """Numbers of rows that come for the first time are run through before the clock starts."""
        for batch in batches:
            if self.compiled_rows is not None and len(batch) not in self.compiled_rows:
                self.compiled_rows.add(len(batch))
                self._answer(batch, WARM_UP_TOKENS)

    @torch.inference_mode()
    def _answer(self, batch: list[tuple[bytes, str]], new_tokens: int) -> list[str]:
        images = [Image.open(BytesIO(picture)).convert("RGB") for picture, _ in batch]
        texts = [text for _, text in batch]
        inputs = self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        inputs = inputs.to(self.device, self.dtype)
        tokens = self.model.generate(**inputs, **self.generation, min_new_tokens=new_tokens, max_new_tokens=new_tokens)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        if new.shape != (len(batch), new_tokens):
            raise SystemExit(f"asked for {len(batch)} x {new_tokens} new tokens, got {tuple(new.shape)}")
        return self.processor.batch_decode(new, skip_special_tokens=True)


def main() -> None:
    """Loads, says so, and serves lines until its input ends."""
    options = _options()
    # Whatever a library prints must not come between the lines of the protocol.
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    model = Transformers(options)
    _say(lines, {"ready": True, "versions": _versions(options)})
    for line in sys.stdin:
        _say(lines, {"seconds": model.answer_all(json.loads(line)["batches"])})


def _say(lines: Any, answer: Json) -> None:  # noqa: ANN401 - a text stream; typing.TextIO says no more
    print(json.dumps(answer), file=lines, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="folder as from the hub")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of the weights (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="of torch")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the decode step, with a static cache")
    parser.add_argument("--quantize", choices=QUANTIZATIONS, help="by torchao, every linear layer")
    return parser.parse_args()


def _processor(checkpoint: Path) -> Blip2Processor:
    """The processor out of its parts: a synthetic checkpoint has no file that names their classes.

    Padding is on the left. On the right, the tokenizer's default, a padded row gets another answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, pad_token="<pad>", padding_side="left")
    queries = AutoConfig.from_pretrained(checkpoint).num_query_tokens
    return Blip2Processor(BlipImageProcessor.from_pretrained(checkpoint), tokenizer, num_query_tokens=queries)


def _compiled(model: Blip2ForConditionalGeneration) -> Json:
    """Parameters of `generate` for a static cache and compiled decode steps, as transformers documents them.

    Only on a GPU does `generate` compile by itself. There the vision encoder and the Q-Former are compiled too; on a
    CPU that changes nothing: 0.89 s for a picture of opt-2.7b in bf16 either way.
    """
    on_gpu = model.device.type == "cuda"
    config = CompileConfig(mode="reduce-overhead" if on_gpu else "default")
    config._compile_all_devices = True
    if on_gpu:
        model.vision_model.forward = torch.compile(model.vision_model.forward)
        model.qformer.forward = torch.compile(model.qformer.forward)
    return {"cache_implementation": "static", "max_cache_len": CACHE_POSITIONS, "compile_config": config}


def _quantize(model: Blip2ForConditionalGeneration, kind: str) -> None:
    # Imported here because only this needs the extra `torchao`.
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig() if kind == "int8-weights" else Int8DynamicActivationInt8WeightConfig()
    quantize_(model, config)


def _versions(options: argparse.Namespace) -> dict[str, str]:
    packages = ["torch", "transformers", *(["torchao"] if options.quantize else [])]
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


if __name__ == "__main__":
    main()
