"""A bundle run by ONNX Runtime, in the way the Rust runtime runs it: on the CPU, unless a GPU is asked for.

The decoder's KV cache is extended in place (`kv_cache`). Tensor names and dimensions come from the manifest, as they
do in the server. Sessions open when they are needed and stay until `close`, because at full size not all of them fit
into memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from blip2_export.beam_search import BeamAnswer, BeamOptions, beam_search
from blip2_export.bundle import read_manifest
from blip2_export.errors import ExportError
from blip2_export.kv_cache import DeviceKvCache, KvCache
from blip2_export.memory import release
from blip2_export.providers import CPU, NO_CPU, ON_CPU, Provider, check_session
from blip2_export.tokenizer import parse_tokenizer, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

SEVERITY_ERROR = 3
UNWRITTEN_ON_GPU = 1000.0
CPU_INFO = Path("/proc/cpuinfo")

ort.disable_telemetry_events()


def open_session(
    path: Path,
    threads: int = 0,
    model: bytes | None = None,
    providers: Sequence[str | tuple[str, Json]] = (CPU,),
) -> ort.InferenceSession:
    """A session, on the CPU by default; `threads` 0 means as many as there are cores.

    `model` is run in the place of the graph in the file, with the weights that lie beside the file. With other
    providers than the CPU's, no node may fall back to the CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = SEVERITY_ERROR
    if not has_vnni():
        # Without it, x86 processors without VNNI return wrong sums from int8 graphs: see linear.py.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if model is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    if CPU not in providers:
        options.add_session_config_entry(*NO_CPU)
    return ort.InferenceSession(model or path, options, providers=list(providers), enable_fallback=False)


@cache
def has_vnni() -> bool:
    """Whether the processor multiplies 8-bit integers exactly by itself. Where the system does not tell, it may not."""
    try:
        flags = CPU_INFO.read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)


@dataclass(frozen=True)
class Step:
    """What one decoder run feeds. Rows are padded on the right to the longest.

    image_prefix f32 [rows, prefix, hidden] (prefix may be 0), input_ids: the new ids of each row, starts: the
    length of each row before the run, logits_index i64 [rows, k].
    """

    image_prefix: np.ndarray
    input_ids: Sequence[Sequence[int]]
    starts: Sequence[int]
    logits_index: np.ndarray


def teacher_forced_step(image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> Step:
    """One run over a prompt and its answer, asking for the logits before each token of the answer."""
    first = image_prefix.shape[1] + len(prompt) - 1
    index = np.arange(first, first + len(answer), dtype=np.int64)[None]
    return Step(image_prefix, [[*prompt, *answer[:-1]]], [0], index)


class OnnxBlip2:
    """A bundle. Its stages take and give the same as those of `reference.Reference`."""

    def __init__(self, folder: Path, threads: int = 0, provider: Provider = ON_CPU) -> None:
        self.folder = folder
        self.threads = threads
        self.provider = provider
        self.manifest = read_manifest(folder)
        self.decoder_info: Json = self.manifest["decoder"]
        self.tokenizer = parse_tokenizer((folder / self.manifest["tokenizer"]["file"]).read_bytes())
        self._sessions: dict[str, ort.InferenceSession] = {}

    def graph(self, stage: str) -> Path:
        """The file of a stage's graph."""
        return self.folder / self.manifest[stage]["file"]

    def open(self, stage: str) -> ort.InferenceSession:
        """The session of a stage.

        Raises:
            ExportError: ONNX Runtime cannot run the graph where it was asked to.
        """
        if stage not in self._sessions:
            self._sessions[stage] = self.session(stage)
        return self._sessions[stage]

    def session(self, stage: str, model: bytes | None = None) -> ort.InferenceSession:
        """A new session of a stage; with `model`, of that in the place of the stage's graph. Raises as `open`."""
        graph, provider = self.graph(stage), self.provider.of(stage)
        try:
            wanted = provider.execution_providers(stage, self.manifest)
            session = open_session(graph, self.threads, model, wanted)
        except Exception as error:  # ONNX Runtime's exceptions have no other base
            raise cannot_open(graph, provider, error) from error
        check_session(session, graph, provider)
        return session

    def close(self) -> None:
        """Frees every open session."""
        self._sessions.clear()
        release()

    def prompt_ids(self, text: str) -> list[int]:
        """The ids that follow the image prefix."""
        return prompt_ids(self.tokenizer, self.manifest["tokenizer"]["bos_token_id"], text)

    def image_embeds(self, pixel_values: np.ndarray) -> np.ndarray:
        """[batch, 3, height, width] -> [batch, num_tokens, vision hidden]."""
        return self.open("vision_encoder").run(None, {"pixel_values": pixel_values})[0]

    def query(self, image_embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """image_embeds -> query_output [batch, queries, hidden], image_prefix [batch, queries, width]."""
        query_output, image_prefix = self.open("qformer").run(
            ["query_output", "image_prefix"], {"image_embeds": image_embeds}
        )
        return query_output, image_prefix

    def cache(self, rows: int, max_len: int | None = None, fill: float | None = None) -> KvCache | DeviceKvCache:
        """A new KV cache. NaN by default: whatever is read before it was written shows at once.

        On a GPU a large number does that: its kernels may multiply what they mask by zero, and what a server leaves
        behind is finite.
        """
        max_len = max_len or self.decoder_info["max_positions"]
        if self.provider.is_gpu:
            fill, device = UNWRITTEN_ON_GPU if fill is None else fill, ("cuda", self.provider.device_id)
            return DeviceKvCache(self.decoder_info, rows, max_len, fill, device)
        return KvCache(self.decoder_info, rows, max_len, np.nan if fill is None else fill)

    def no_prefix(self, rows: int) -> np.ndarray:
        """The image prefix of a decode step: [rows, 0, hidden]."""
        return np.zeros((rows, 0, self.decoder_info["hidden_size"]), np.float32)

    def step(self, cache: KvCache | DeviceKvCache, step: Step) -> np.ndarray:
        """Runs the decoder over the first rows of the cache, in place -> logits f32 [rows, k, vocab]."""
        return run_decoder(self.open("decoder"), cache, step, ["logits"])[0]

    def prefill(
        self, cache: KvCache | DeviceKvCache, image_prefix: np.ndarray, prompts: Sequence[Sequence[int]]
    ) -> np.ndarray:
        """Runs whole prompts from an empty cache -> logits of each row's last position, [rows, vocab]."""
        last = [image_prefix.shape[1] + len(prompt) - 1 for prompt in prompts]
        index = np.array(last, np.int64)[:, None]
        return self.step(cache, Step(image_prefix, prompts, [0] * len(prompts), index))[:, 0]

    def decode(self, cache: KvCache | DeviceKvCache, tokens: Sequence[int], starts: Sequence[int]) -> np.ndarray:
        """Runs one token a row -> logits [rows, vocab]."""
        rows = len(tokens)
        ids = [[token] for token in tokens]
        return self.step(cache, Step(self.no_prefix(rows), ids, starts, np.zeros((rows, 1), np.int64)))[:, 0]

    def teacher_forced(self, image_prefix: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """The logits before each token of `answer`, in one run: [len(answer), vocab]."""
        step = teacher_forced_step(image_prefix, prompt, answer)
        return self.step(self.cache(1, image_prefix.shape[1] + len(step.input_ids[0])), step)[0]

    def greedy(self, image_prefix: np.ndarray, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """The greedy answer to a prompt, the end token included if it came."""
        length = image_prefix.shape[1] + len(prompt)
        cache = self.cache(1, length + max_new_tokens)
        logits = self.prefill(cache, image_prefix, [prompt])
        tokens = [int(logits[0].argmax())]
        while tokens[-1] != self.manifest["tokenizer"]["eos_token_id"] and len(tokens) < max_new_tokens:
            logits = self.decode(cache, [tokens[-1]], [length])
            length += 1
            tokens.append(int(logits[0].argmax()))
        return tokens

    def beams(
        self, image_prefix: np.ndarray, prompt: Sequence[int], options: BeamOptions, max_new_tokens: int
    ) -> list[BeamAnswer]:
        """The answers of beam search, best first. Beams are rows of one cache."""
        length = image_prefix.shape[1] + len(prompt)
        cache = self.cache(options.num_beams, length + max_new_tokens)
        logits = self.prefill(cache, image_prefix, [prompt])

        def advance(parents: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
            nonlocal length
            cache.reorder(parents)
            length += 1
            return self.decode(cache, tokens, [length - 1] * len(tokens))

        return beam_search(logits, advance, options, max_new_tokens, self.manifest["tokenizer"]["eos_token_id"])


def cannot_open(graph: Path, provider: Provider, error: Exception) -> ExportError:
    """One line for whatever ONNX Runtime says about a graph."""
    reason = str(error).splitlines()[0]
    where = "with " + provider.name if provider.is_gpu else "on the CPU, where bundles are verified"
    return ExportError(f"{graph}: ONNX Runtime cannot run this graph {where} ({reason})")


def run_decoder(
    session: ort.InferenceSession, cache: KvCache | DeviceKvCache, step: Step, outputs: Sequence[str]
) -> list[np.ndarray]:
    """One run over the first rows of the cache, in place -> the outputs asked for."""
    binding = session.io_binding()
    for name, value in step_inputs(step).items():
        binding.bind_cpu_input(name, value)
    cache.bind(binding, len(step.input_ids))
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return [value.numpy() for value in binding.get_outputs()[-len(outputs) :]]


def step_inputs(step: Step) -> dict[str, np.ndarray]:
    """The decoder's inputs without the KV buffers, padded on the right."""
    rows, prefix = len(step.input_ids), step.image_prefix.shape[1]
    seq = max(len(ids) for ids in step.input_ids)
    starts = np.array(step.starts)
    ends = starts + prefix + [len(ids) for ids in step.input_ids]
    input_ids = np.zeros((rows, seq), np.int64)
    for row, ids in enumerate(step.input_ids):
        input_ids[row, : len(ids)] = ids
    # Padding repeats the row's last position, so that it stays inside the table of positions.
    positions = np.minimum(starts[:, None] + np.arange(prefix + seq), ends[:, None] - 1)
    return {
        "input_ids": input_ids,
        "image_prefix": np.ascontiguousarray(step.image_prefix, dtype=np.float32),
        "position_ids": positions.astype(np.int64),
        "seqlens_k": (ends - 1).astype(np.int32),
        "total_sequence_length": np.array(ends.max(), np.int32),
        "logits_index": np.ascontiguousarray(step.logits_index, dtype=np.int64),
    }
