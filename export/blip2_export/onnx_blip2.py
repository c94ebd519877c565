"""A bundle run by ONNX Runtime on the CPU, in the way the Rust runtime runs it.

The KV cache is one buffer a layer and kind, bound as `past_key_values` and as `present` at once, so a run
extends it in place. Tensor names and dimensions come from the manifest, as they do in the server. Sessions open
when they are needed and stay until `close`, because at full size not all of them fit into memory at once.
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
from blip2_export.contract import KV_KINDS
from blip2_export.errors import ExportError
from blip2_export.memory import release
from blip2_export.tokenizer import parse_tokenizer, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

PROVIDER = "CPUExecutionProvider"
SEVERITY_ERROR = 3
CPU_INFO = Path("/proc/cpuinfo")

ort.disable_telemetry_events()


def open_session(path: Path, threads: int = 0, model: bytes | None = None) -> ort.InferenceSession:
    """A CPU session; `threads` 0 means as many as there are cores.

    `model` is run in the place of the graph in the file, with the weights that lie beside the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = SEVERITY_ERROR
    if not has_vnni():
        # Without it, x86 processors without VNNI return wrong sums from int8 graphs: see linear.py.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if model is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return ort.InferenceSession(model or path, options, providers=[PROVIDER])


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


class KvCache:
    """Keys and values of some rows, [rows, heads, max_len, head_dim] a layer and kind, filled with `fill`."""

    def __init__(self, decoder: Json, rows: int, max_len: int, fill: float = np.nan) -> None:
        shape = (rows, decoder["num_heads"], max_len, decoder["head_dim"])
        dtype = np.dtype(decoder["kv_dtype"])
        self.buffers: dict[tuple[str, str], np.ndarray] = {}
        for layer in range(decoder["num_layers"]):
            for kind in KV_KINDS:
                past, present = (decoder[name].format(layer=layer, kind=kind) for name in ("past", "present"))
                self.buffers[past, present] = np.full(shape, fill, dtype)

    def bind(self, binding: ort.IOBinding, rows: int) -> None:
        """Binds the first `rows` rows of every buffer as past and, in the same memory, as present."""
        for (past, present), buffer in self.buffers.items():
            value = ort.OrtValue.ortvalue_from_numpy(buffer[:rows])
            if value.data_ptr() != buffer.ctypes.data:
                raise RuntimeError("ONNX Runtime copied the KV buffer, so it would not be extended in place")
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)

    def store_row(self, row: int, single: KvCache) -> None:
        """Copies the only row of another cache into one of this cache; their other dimensions are equal."""
        for names, buffer in self.buffers.items():
            buffer[row] = single.buffers[names][0]

    def reorder(self, parents: Sequence[int]) -> None:
        """Makes row i a copy of what row `parents[i]` was."""
        for buffer in self.buffers.values():
            buffer[: len(parents)] = buffer[list(parents)]


class OnnxBlip2:
    """A bundle. Its stages take and give the same as those of `reference.Reference`."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        self.threads = threads
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
            ExportError: ONNX Runtime cannot run the graph on the CPU.
        """
        if stage not in self._sessions:
            try:
                self._sessions[stage] = open_session(self.graph(stage), self.threads)
            except Exception as error:  # ONNX Runtime's exceptions have no other base
                raise cannot_open(self.graph(stage), error) from error
        return self._sessions[stage]

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

    def cache(self, rows: int, max_len: int | None = None, fill: float = np.nan) -> KvCache:
        """A new KV cache. NaN by default: whatever is read before it was written shows at once."""
        return KvCache(self.decoder_info, rows, max_len or self.decoder_info["max_positions"], fill)

    def no_prefix(self, rows: int) -> np.ndarray:
        """The image prefix of a decode step: [rows, 0, hidden]."""
        return np.zeros((rows, 0, self.decoder_info["hidden_size"]), np.float32)

    def step(self, cache: KvCache, step: Step) -> np.ndarray:
        """Runs the decoder over the first rows of the cache, in place -> logits f32 [rows, k, vocab]."""
        return run_decoder(self.open("decoder"), cache, step, ["logits"])[0]

    def prefill(self, cache: KvCache, image_prefix: np.ndarray, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Runs whole prompts from an empty cache -> logits of each row's last position, [rows, vocab]."""
        last = [image_prefix.shape[1] + len(prompt) - 1 for prompt in prompts]
        index = np.array(last, np.int64)[:, None]
        return self.step(cache, Step(image_prefix, prompts, [0] * len(prompts), index))[:, 0]

    def decode(self, cache: KvCache, tokens: Sequence[int], starts: Sequence[int]) -> np.ndarray:
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


def cannot_open(graph: Path, error: Exception) -> ExportError:
    """One line for whatever ONNX Runtime says about a graph."""
    reason = str(error).splitlines()[0]
    return ExportError(f"{graph}: ONNX Runtime cannot run this graph on the CPU, where bundles are verified ({reason})")


def run_decoder(session: ort.InferenceSession, cache: KvCache, step: Step, outputs: Sequence[str]) -> list[np.ndarray]:
    """One run over the first rows of the cache, in place -> the outputs asked for."""
    binding = session.io_binding()
    for name, value in step_inputs(step).items():
        binding.bind_cpu_input(name, value)
    cache.bind(binding, len(step.input_ids))
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
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
