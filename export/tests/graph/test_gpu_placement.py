"""Where ONNX Runtime itself puts the nodes of the graphs for GPUs, beside stand-ins for CUDA's libraries.

Only where onnxruntime is the package for GPUs, and no GPU is: `make venv-gpu`, then from export/
`../.venv-gpu/bin/pytest tests/graph/test_gpu_placement.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_stand_in
import onnxruntime as ort
import pytest

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.graph.contract import STAGES
from blip2_export.graph.precision import CHOICES
from blip2_export.inference.providers import CPU, CUDA, NO_CPU

pytestmark = pytest.mark.skipif(
    CUDA not in ort.get_available_providers()
    or Path("/proc/driver/nvidia").exists()
    or not all(map(shutil.which, ("cc", "readelf"))),
    reason="wants onnxruntime-gpu, a C compiler and no GPU",
)

GPU = [(target, precision) for target in ("cuda", "tensorrt") for precision in CHOICES[target].presets]
# Ends at once: nothing is said of how the stand-ins are left.
SCRIPT = """
import collections, json, os, sys
import onnxruntime as ort
graph, provider, *entry = sys.argv[1:]
options = ort.SessionOptions()
options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
if entry:
    options.add_session_config_entry(*entry)
try:
    session = ort.InferenceSession(graph, options, providers=[provider], enable_fallback=False)
    placed = collections.defaultdict(collections.Counter)
    for part in session.get_provider_graph_assignment_info():
        placed[part.ep_name].update(node.op_type for node in part.get_nodes())
    found = {"placed": placed}
except Exception as error:
    found = {"refused": str(error)}
print(json.dumps(found), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    cuda_stand_in.build(Path(ort.__file__).parent / "capi/libonnxruntime_providers_cuda.so", folder)
    return folder


def place(graph: Path, stand_ins: Path, *entry: str) -> dict[str, dict[str, dict[str, int]]]:
    words = [sys.executable, "-c", SCRIPT, graph, CUDA, *entry]
    environment = os.environ | {"LD_LIBRARY_PATH": os.fspath(stand_ins)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("target", "precision"), GPU)
def test_every_node_of_a_graph_for_gpus_is_placed_on_cuda(
    checkpoint: Path, stand_ins: Path, tmp_path: Path, target: str, precision: str
) -> None:
    export(ExportOptions(checkpoint, tmp_path / "bundle", target=target, precision=precision))
    for stage in STAGES:
        found = place(tmp_path / "bundle" / f"{stage}.onnx", stand_ins, *NO_CPU)
        assert set(found.get("placed", found)) == {CUDA}


def test_a_graph_that_computes_shapes_is_placed_on_the_cpu_in_part_and_refused_by_the_entry(
    fp32_bundle: Path, stand_ins: Path
) -> None:
    graph = fp32_bundle / "qformer.onnx"
    assert place(graph, stand_ins)["placed"][CPU] == {"Concat": 1}
    assert "explicitly disabled by the user" in place(graph, stand_ins, *NO_CPU)["refused"]
