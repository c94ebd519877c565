"""Defines the stages: their commands, needs and order."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = {"cuda-fp16": ("cuda", "fp16"), "cuda-int8": ("cuda", "int8"), "tensorrt-fp16": ("tensorrt", "fp16")}
TENSORRT_REMEDY = "TensorRT is not there: make onnxruntime-gpu TENSORRT_DIR=…"


@dataclass(frozen=True)
class Command:
    """One process: its words, folder and additions to the environment."""

    words: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """The command for a shell."""
        set_first = "".join(f"{name}={value} " for name, value in self.environment.items())
        return f"cd {self.folder} && {set_first}{' '.join(self.words)}"


@dataclass(frozen=True)
class Need:
    """A required file, and the message if it is missing. `is_fault`: counts as a failure, not as a skip."""

    path: Path
    otherwise: str
    is_fault: bool = False


@dataclass(frozen=True)
class Stage:
    """A named step. `tolerated` maps exit codes that are results, not failures, to their meaning."""

    name: str
    title: str
    commands: tuple[Command, ...] = ()
    needs_gpu: bool = False
    needs: tuple[Need, ...] = ()
    tolerated: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """The paths. `checkpoint` replaces the synthetic one."""

    repository: Path
    work: Path
    results: Path
    quick: bool = False
    checkpoint: Path | None = None
    device_id: int = 0

    @property
    def export(self) -> Path:
        """The folder of the Python package."""
        return self.repository / "export"

    @property
    def onnxruntime(self) -> Path:
        """ONNX Runtime for GPUs."""
        return self.repository / ".ort-gpu/libonnxruntime.so"

    @property
    def tensorrt(self) -> Path:
        """The file whose presence shows that TensorRT is linked."""
        return self.repository / ".ort-gpu/libnvinfer.so.10"

    @property
    def python(self) -> Path:
        """The environment with torch and onnxruntime-gpu."""
        return self.repository / ".venv-gpu/bin/python"

    @property
    def full(self) -> Path:
        """The checkpoint of the real size."""
        return self.checkpoint or self.work / "checkpoint"

    @property
    def tiny(self) -> Path:
        """The trained tiny checkpoint, which lies in the repository."""
        return self.repository / "onnx/checkpoint"

    def bundle(self, size: str, name: str) -> Path:
        """An exported bundle."""
        return self.work / f"{size}-{name}"


def stages(places: Places) -> list[Stage]:
    """Returns all stages in order. The tiny model tests correctness, the real size memory and speed."""
    sizes = ["tiny"] if places.quick else ["tiny", "full"]
    found = [_machine(places), _libraries(places), _build(places)]
    if not places.quick and places.checkpoint is None:
        found.append(_checkpoint(places))
    for make in (_export, _verify):
        found += [make(places, size, name) for size in sizes for name in TARGETS]
    found += [_test(places, name) for name in ("cuda-fp16", "tensorrt-fp16")]
    found += [_bench(places, sizes[-1], name) for name in TARGETS]
    found.append(_compare(places, sizes[-1]))
    return found


def _machine(places: Places) -> Stage:
    return Stage(
        "machine",
        "the GPU, its driver and its compute capability",
        (Command(("nvidia-smi",), places.repository),),
        needs_gpu=True,
    )


def _libraries(places: Places) -> Stage:
    with_tensorrt = ("--tensorrt",) if places.tensorrt.exists() else ()
    words = (sys.executable, "-m", "gpu_check.libraries", str(places.onnxruntime.parent), *with_tensorrt)
    return Stage(
        "libraries",
        "CUDA, cuDNN, TensorRT and ONNX Runtime can be loaded",
        (Command(words, places.export),),
        needs_gpu=True,
        needs=(_library(places),),
    )


def _build(places: Places) -> Stage:
    return Stage(
        "build", "the release binary", (Command(("cargo", "build", "--release", "--locked"), places.repository),)
    )


def _checkpoint(places: Places) -> Stage:
    words = (str(places.python), "-m", "blip2_export", "make-checkpoint", "--output", str(places.full))
    return Stage(
        "checkpoint",
        "a synthetic checkpoint of the real size (7.5 GB)",
        (Command(words, places.export),),
        needs=(_environment(places),),
    )


def _export(places: Places, size: str, name: str) -> Stage:
    target, precision = TARGETS[name]
    source = places.tiny if size == "tiny" else places.full
    words = ("export", "--checkpoint", str(source), "--output", str(places.bundle(size, name)), "--force")
    return Stage(
        f"export-{size}-{name}",
        f"the {size} bundle for {target} in {precision}",
        (_blip2_export(places, *words, "--target", target, "--precision", precision),),
        needs=(_environment(places), Need(source / "config.json", f"{source} is not there")),
    )


def _verify(places: Places, size: str, name: str) -> Stage:
    target, _ = TARGETS[name]
    source = places.tiny if size == "tiny" else places.full
    words = ("verify", "--checkpoint", str(source), "--bundle", str(places.bundle(size, name)), "--provider", target)
    reference = ("--reference-device", "cuda") if size == "full" else ()
    is_random = size == "full" and places.checkpoint is None
    return Stage(
        f"verify-{size}-{name}",
        f"the {size} bundle {name} against transformers",
        (_blip2_export(places, *words, *reference),),
        needs_gpu=True,
        needs=(_environment(places), *_bundle(places, size, name)),
        tolerated={1: "misses a limit, which is for trained weights; these are random"} if is_random else {},
    )


def _test(places: Places, name: str) -> Stage:
    target, _ = TARGETS[name]
    environment = _of_rust(places) | {
        "BLIP2_TEST_PROVIDER": target,
        "BLIP2_TEST_BUNDLE": str(places.bundle("tiny", name)),
    }
    return Stage(
        f"test-{target}",
        f"the Rust tests with {target}",
        (
            Command(("cargo", "test", "--locked"), places.repository, environment),
            # Elsewhere they count as ignored.
            Command(
                ("cargo", "test", "--locked", "--test", "blip2", "providers::", "--", "--ignored"),
                places.repository,
                environment,
            ),
        ),
        needs_gpu=True,
        needs=(_library(places), *_bundle(places, "tiny", name)),
    )


def _bench(places: Places, size: str, name: str) -> Stage:
    bundle = str(places.bundle(size, name))
    binary = places.repository / "target/release/blip2"
    return Stage(
        f"bench-{size}-{name}",
        f"golden answers and `blip2 bench` of the {size} bundle {name}",
        tuple(
            Command((str(binary), command, "--model", bundle), places.repository, _of_rust(places))
            for command in ("verify", "bench")
        ),
        needs_gpu=True,
        needs=(_library(places), Need(binary, "the binary is not built"), *_bundle(places, size, name)),
    )


def _compare(places: Places, size: str) -> Stage:
    folder = places.repository / "benches"
    bundles = [name for name in TARGETS if name.startswith("cuda") or places.tensorrt.exists()]
    source = places.tiny if size == "tiny" else places.full
    words = [str(places.python), "-m", "compare", "run", "--checkpoint", str(source), "--bundles"]
    words += [str(places.bundle(size, name)) for name in bundles]
    words += ["--device", "cuda", "--transformers", "fp16", "fp16+compile", "--ort-library", str(places.onnxruntime)]
    words += ["--rounds", "1"] if places.quick else []
    environment = _of_python(places)
    return Stage(
        "compare",
        "beside transformers in fp16, with and without torch.compile",
        (Command((*words, "--output", str(places.results / "compare")), folder, environment),),
        needs_gpu=True,
        needs=(
            _environment(places),
            _library(places),
            Need(folder / "compare/__main__.py", "benches/compare is not there"),
            *(need for name in bundles for need in _bundle(places, size, name)),
        ),
    )


def _blip2_export(places: Places, *words: str) -> Command:
    return Command((str(places.python), "-m", "blip2_export", *words), places.export, _of_python(places))


def _of_python(places: Places) -> dict[str, str]:
    """Returns the environment for TensorRT. torch finds its own CUDA libraries, in its versions, first."""
    searched = f"{places.onnxruntime.parent}:$LD_LIBRARY_PATH"  # the runner fills in what is searched already
    # CUDA would count the fastest first, and nvidia-smi, which names the GPU in the results, does not.
    counted = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(places.device_id)}
    return counted | {"LD_LIBRARY_PATH": searched}


def _of_rust(places: Places) -> dict[str, str]:
    return _of_python(places) | {"ORT_DYLIB_PATH": str(places.onnxruntime)}


def _environment(places: Places) -> Need:
    return Need(places.python, "no .venv-gpu: make venv-gpu", is_fault=True)


def _library(places: Places) -> Need:
    return Need(places.onnxruntime, "no .ort-gpu: make onnxruntime-gpu", is_fault=True)


def _bundle(places: Places, size: str, name: str) -> tuple[Need, ...]:
    manifest = Need(places.bundle(size, name) / "manifest.json", f"no bundle: stage export-{size}-{name} makes it")
    if TARGETS[name][0] == "tensorrt":
        return (Need(places.tensorrt, TENSORRT_REMEDY), manifest)
    return (manifest,)
