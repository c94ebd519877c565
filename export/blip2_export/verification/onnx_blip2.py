"""Runs a bundle with ONNX Runtime as the Rust runtime does, on the CPU unless a GPU is requested.

The decoder's KV cache is extended in place (`kv_cache`). Tensor names and dimensions come from the manifest, as in the
server. Sessions are opened on first use and kept until `close`, because at full size they do not all fit into memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blip2_export.bundle.folder import read_manifest
from blip2_export.checkpoint.tokenizer import parse_tokenizer, prompt_ids
from blip2_export.errors import ExportError
from blip2_export.inference.kv_cache import DeviceKvCache, KvCache
from blip2_export.inference.providers import ON_CPU, Provider, check_session
from blip2_export.inference.session import open_session
from blip2_export.inference.step import Step, run_decoder, teacher_forced_step
from blip2_export.verification.beam_search import BeamAnswer, BeamOptions, beam_search
from blip2_export.verification.memory import release

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnxruntime as ort

Json = dict[str, Any]

UNWRITTEN_ON_GPU = 1000.0


class OnnxBlip2:
    """A bundle. Its stages have the same inputs and outputs as those of `reference.Reference`."""

    def __init__(self, folder: Path, threads: int = 0, provider: Provider = ON_CPU) -> None:
        self.folder = folder
        self.threads = threads
        self.provider = provider
        self.manifest = read_manifest(folder)
        self.decoder_info: Json = self.manifest["decoder"]
        self.tokenizer = parse_tokenizer((folder / self.manifest["tokenizer"]["file"]).read_bytes())
        self._sessions: dict[str, ort.InferenceSession] = {}

    def graph(self, stage: str) -> Path:
        """Returns the file of a stage's graph."""
        return self.folder / self.manifest[stage]["file"]

    def open(self, stage: str) -> ort.InferenceSession:
        """Returns the session of a stage.

        Raises:
            ExportError: ONNX Runtime cannot run the graph on the requested provider.
        """
        if stage not in self._sessions:
            self._sessions[stage] = self.session(stage)
        return self._sessions[stage]

    def session(self, stage: str, model: bytes | None = None) -> ort.InferenceSession:
        """Opens a new session of a stage; `model` replaces the stage's graph. Raises as `open`."""
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
        """Returns the ids that follow the image prefix."""
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
        """Returns a new KV cache, filled with NaN by default, so that a read before a write shows at once.

        On a GPU a large number takes its place: its kernels may multiply masked values by zero, and a server leaves
        only finite values.
        """
        max_len = max_len or self.decoder_info["max_positions"]
        if self.provider.is_gpu:
            fill, device = UNWRITTEN_ON_GPU if fill is None else fill, ("cuda", self.provider.device_id)
            return DeviceKvCache(self.decoder_info, rows, max_len, fill, device)
        return KvCache(self.decoder_info, rows, max_len, np.nan if fill is None else fill)

    def no_prefix(self, rows: int) -> np.ndarray:
        """Returns the image prefix of a decode step: [rows, 0, hidden]."""
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
        """Returns the logits before each token of `answer`, in one run: [len(answer), vocab]."""
        step = teacher_forced_step(image_prefix, prompt, answer)
        return self.step(self.cache(1, image_prefix.shape[1] + len(step.input_ids[0])), step)[0]

    def greedy(self, image_prefix: np.ndarray, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Returns the greedy answer to a prompt, the end token included if it came."""
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
        """Returns the answers of beam search, best first. Beams are rows of one cache."""
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
    """Returns ONNX Runtime's error about a graph as one line."""
    reason = str(error).splitlines()[0]
    where = "with " + provider.name if provider.is_gpu else "on the CPU, where bundles are verified"
    return ExportError(f"{graph}: ONNX Runtime cannot run this graph {where} ({reason})")
