"""Opens graphs with ONNX Runtime, on the CPU unless a GPU is requested."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime as ort

from blip2_export.errors import ExportError
from blip2_export.inference.providers import CPU, NO_CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

SEVERITY_ERROR = 3
CPU_INFO = Path("/proc/cpuinfo")

ort.disable_telemetry_events()


def open_session(
    path: Path,
    threads: int = 0,
    model: bytes | None = None,
    providers: Sequence[str | tuple[str, Json]] = (CPU,),
) -> ort.InferenceSession:
    """Opens a session, on the CPU by default; `threads` 0 means one per core.

    `model` replaces the graph in the file and uses the weights beside the file. With any provider but the CPU's, no
    node may fall back to the CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = SEVERITY_ERROR
    if not has_vnni():
        # Without it, x86 processors without VNNI return wrong sums from int8 graphs: see graph/linear.py.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if model is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    if CPU not in providers:
        options.add_session_config_entry(*NO_CPU)
    return ort.InferenceSession(model or path, options, providers=list(providers), enable_fallback=False)


@cache
def has_vnni() -> bool:
    """Returns whether the processor has VNNI, with which 8-bit products are exact; False if unknown."""
    try:
        flags = CPU_INFO.read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)


def with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """Returns the graph of a file with more of its tensors as outputs, whose types are inferred."""
    graph = onnx.load(path, load_external_data=False)
    missing = set(names) - {output for node in graph.graph.node for output in node.output}
    if missing:
        raise ExportError(f"{path}: has no tensor {min(missing)}; export the bundle again with this version")
    for name in names:
        graph.graph.output.add(name=name)
    return graph.SerializeToString()
