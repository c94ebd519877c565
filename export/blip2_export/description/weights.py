"""Tells the files of the model itself from the files that describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

STAGES = {"vision_encoder": "vision encoder", "qformer": "Q-Former", "decoder": "decoder"}
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def graph_files(manifest: Mapping[str, Any]) -> dict[str, Json]:
    """Returns hash and size of the graphs, their external data and the tokenizer, by file name."""
    graphs = tuple(manifest[stage]["file"] for stage in STAGES)
    tokenizer = manifest["tokenizer"]["file"]
    files = manifest["files"].items()
    return {name: entry for name, entry in files if name == tokenizer or name.startswith(graphs)}


def external_data(manifest: Mapping[str, Any]) -> list[str]:
    """Returns the names of the files that hold weights outside the graphs."""
    return [name for name in graph_files(manifest) if name.endswith(".onnx.data")]


def total_bytes(manifest: Mapping[str, Any]) -> int:
    """Returns the total size of graphs, weights and tokenizer in bytes."""
    return sum(entry["bytes"] for entry in graph_files(manifest).values())


def stage_precisions(manifest: Mapping[str, Any]) -> str:
    """Returns the precision by stage, in words: `vision encoder int8, Q-Former fp32, decoder int8`."""
    return ", ".join(f"{words} {manifest['precision'][stage]}" for stage, words in STAGES.items())


def readable(count: int) -> str:
    """Formats bytes for people. Differs from `progress.size` in that it also shows a few hundred bytes."""
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} bytes"
