"""Selects execution providers, and refuses any silent fallback to the CPU.

When a provider's libraries are missing, ONNX Runtime opens the session on the CPU and only logs it. Here the libraries
are looked up first, no node may fall back to the CPU, and the session is asked for its provider.

None of this has run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from blip2_export.errors import ExportError
from blip2_export.graph.builder import IR_VERSION
from blip2_export.graph.contract import OPSET

Json = dict[str, Any]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
EXECUTION_PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
PROVIDERS = tuple(EXECUTION_PROVIDERS)
# A session with this entry is refused rather than run in part on the CPU.
NO_CPU = ("session.disable_cpu_ep_fallback", "1")
DRIVER = "libcuda.so.1"
# Needed by the CUDA provider, in the order of their dependence; the driver apart.
CUDA_LIBRARIES = ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudnn.so.9")
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
# TensorRT builds an engine for a range of batches: the server's.
LARGEST_BATCH = 4


@dataclass(frozen=True)
class Provider:
    """A provider: a name of `PROVIDERS`, and the number of the GPU."""

    name: str = "cpu"
    device_id: int = 0

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU is needed."""
        return self.name != "cpu"

    def of(self, stage: str) -> Provider:
        """Returns the provider of one stage. The decoder's attention and low-bit products are ONNX Runtime's own
        operators, which TensorRT lacks, so the decoder stays on CUDA."""
        return Provider("cuda", self.device_id) if (self.name, stage) == ("tensorrt", "decoder") else self

    def execution_providers(self, stage: str, manifest: Json) -> list[str | tuple[str, Json]]:
        """Returns the providers for `InferenceSession`, the preferred one first."""
        chosen = self.of(stage)
        if chosen.name == "cpu":
            return [CPU]
        # TF32 keeps 10 bits of f32 products, and ONNX Runtime's default is to use it.
        cuda = (CUDA, {"device_id": self.device_id, "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
        if chosen.name == "cuda":
            return [cuda]
        is_f16 = manifest["precision"][stage] == "fp16"
        precision = {"trt_fp16_enable": is_f16, "trt_layer_norm_fp32_fallback": True}
        return [(TENSORRT, {"device_id": self.device_id} | precision | _profile(stage, manifest)), cuda]


ON_CPU = Provider()


def _profile(stage: str, manifest: Json) -> Json:
    """Returns the range of batch sizes; nothing else varies in the input of an image stage."""
    image, vision = manifest["image"], manifest["vision_encoder"]
    name, fixed = {
        "vision_encoder": ("pixel_values", (3, image["height"], image["width"])),
        "qformer": ("image_embeds", (vision["num_tokens"], vision["hidden_size"])),
    }[stage]
    sizes = {"min": 1, "opt": 1, "max": LARGEST_BATCH}
    return {
        f"trt_profile_{bound}_shapes": f"{name}:{'x'.join(map(str, (rows, *fixed)))}" for bound, rows in sizes.items()
    }


def require(provider: Provider) -> None:
    """Checks that a GPU run has its driver and libraries, before anything long is started.

    Raises:
        ExportError: this ONNX Runtime has no such provider, or a library cannot be loaded.
    """
    if not provider.is_gpu:
        return
    asked = f"--provider {provider.name}"
    if EXECUTION_PROVIDERS[provider.name] not in ort.get_available_providers():
        raise ExportError(
            f"{asked}: the onnxruntime installed here runs on the CPU only; use the environment of `make venv-gpu`"
        )
    _load(
        DRIVER,
        f"{asked}: no NVIDIA driver ({{reason}}); install driver 580 or later, and start containers with `--gpus all`",
    )
    # The CUDA libraries of the Python packages, if they are there; what is loaded already is not loaded again.
    _preload_packages()
    for library in CUDA_LIBRARIES:
        _load(library, f"{asked}: a library of CUDA 13 is missing ({{reason}}); use the environment of `make venv-gpu`")
    for library in TENSORRT_LIBRARIES if provider.name == "tensorrt" else ():
        _load(
            library,
            f"{asked}: TensorRT 10 for CUDA 13 is missing ({{reason}}); install it and put its folder into "
            "LD_LIBRARY_PATH, see docs/gpu.md",
        )


def _load(library: str, message: str) -> None:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ExportError(message.format(reason=error)) from error


def _preload_packages() -> None:
    """Loads the CUDA libraries that pip installed beside onnxruntime, outside the system's search path."""
    packages = Path(ort.__file__).resolve().parents[1] / "nvidia"
    for library in CUDA_LIBRARIES:
        for path in sorted(packages.glob(f"*/lib/{library}")):
            with contextlib.suppress(OSError):  # what is missing in the end is said by `_load`
                ctypes.CDLL(os.fspath(path), mode=ctypes.RTLD_GLOBAL)


def probe(provider: Provider) -> None:
    """Runs one node on the GPU, so that an unsuitable driver or GPU is found at once.

    Raises:
        ExportError: the node does not run there.
    """
    if not provider.is_gpu:
        return
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    options = ort.SessionOptions()
    options.add_session_config_entry(*NO_CPU)
    asked = (EXECUTION_PROVIDERS[provider.name], {"device_id": provider.device_id})
    try:
        session = ort.InferenceSession(model, options, providers=[asked], enable_fallback=False)
        found = session.run(None, {"x": np.array([-1, 2], np.float32)})[0].tolist()
    except Exception as error:  # ONNX Runtime's exceptions have no other base
        reason = str(error).splitlines()[0]
        raise ExportError(
            f"--provider {provider.name}: does not run on GPU {provider.device_id} ({reason}); see docs/gpu.md"
        ) from error
    if found != [0, 2]:
        raise ExportError(
            f"--provider {provider.name}: GPU {provider.device_id} computes Relu(-1, 2) as {found}; check the driver"
        )


def check_session(session: ort.InferenceSession, graph: Path, provider: Provider) -> None:
    """Raises an ExportError unless the session runs on the requested provider."""
    asked, found = EXECUTION_PROVIDERS[provider.name], session.get_providers()
    if found[0] != asked:
        raise ExportError(
            f"{graph}: requested {asked}, but ONNX Runtime opened it on {found[0]}; see its log above for the reason, "
            "and docs/gpu.md for the remedy"
        )
