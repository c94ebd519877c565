"""Providers: the requests to ONNX Runtime, and no silent fallback."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_checkpoint

from blip2_export import cli
from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.errors import ExportError
from blip2_export.inference.kv_cache import DeviceKvCache
from blip2_export.inference.providers import CPU, CUDA, DRIVER, TENSORRT, Provider, check_session, probe, require
from blip2_export.inference.session import open_session
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.inference.kv_cache import KvCache

without_a_driver = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="a GPU is here")
PROMPTS = [[2, 50, 77], [2, 9, 31]]


@pytest.fixture(scope="module")
def gpu_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    export(ExportOptions(checkpoint, folder, target="tensorrt", vision_encoder_precision="fp32"))
    return folder


def test_tensorrt_leaves_the_decoder_to_cuda(gpu_bundle: Path) -> None:
    manifest = OnnxBlip2(gpu_bundle).manifest
    provider = Provider("tensorrt", device_id=1)
    image = [[name for name, _ in provider.execution_providers(s, manifest)] for s in ("vision_encoder", "qformer")]
    assert image == [[TENSORRT, CUDA]] * 2
    [(name, options)] = provider.execution_providers("decoder", manifest)
    assert (name, options["device_id"], options["use_tf32"]) == (CUDA, 1, "0")


def test_tensorrt_gets_the_range_of_batches_and_f16_only_where_the_bundle_has_it(gpu_bundle: Path) -> None:
    (_, options), _ = Provider("tensorrt").execution_providers("vision_encoder", OnnxBlip2(gpu_bundle).manifest)
    side = tiny_checkpoint.CONFIG["vision_config"]["image_size"]
    assert options["trt_profile_max_shapes"] == f"pixel_values:4x3x{side}x{side}"
    assert not options["trt_fp16_enable"]


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """An onnxruntime with GPU providers, where these libraries can be loaded."""
    present: set[str] = set()

    def load(library: str, mode: int = 0) -> object:
        if library not in present:
            raise OSError(f"{library}: cannot open shared object file: No such file or directory")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    return present


def test_an_onnxruntime_without_gpu_providers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    require(Provider("cpu"))
    with pytest.raises(ExportError, match=r"--provider cuda: the onnxruntime installed here runs on the CPU only; use"):
        require(Provider("cuda"))


def test_what_is_missing_is_named_with_its_remedy(pretended: set[str]) -> None:
    with pytest.raises(ExportError, match=r"no NVIDIA driver \(libcuda.so.1: .*install driver 580"):
        require(Provider("cuda"))
    pretended.add(DRIVER)
    with pytest.raises(ExportError, match=r"a library of CUDA 13 is missing \(libcudart.so.13: .*make venv-gpu"):
        require(Provider("cuda"))
    pretended |= {"libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudnn.so.9"}
    require(Provider("cuda"))
    with pytest.raises(ExportError, match=r"TensorRT 10 for CUDA 13 is missing \(libnvinfer.so.10: .*LD_LIBRARY_PATH"):
        require(Provider("tensorrt"))


@without_a_driver
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_does_not_run_one_node_is_found_before_anything_long() -> None:
    probe(Provider("cpu"))
    with pytest.raises(ExportError, match=r"--provider cuda: does not run on GPU 3 \(.+\); see docs/gpu.md"):
        probe(Provider("cuda", 3))


def test_a_session_elsewhere_than_asked_is_refused(fp32_bundle: Path) -> None:
    graph = fp32_bundle / "qformer.onnx"
    session = open_session(graph, threads=1)
    check_session(session, graph, Provider("cpu"))
    with pytest.raises(ExportError, match=f"requested {CUDA}, but ONNX Runtime opened it on {CPU}"):
        check_session(session, graph, Provider("cuda"))


@without_a_driver
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_without_a_gpu_no_session_opens_for_one(gpu_bundle: Path) -> None:
    """Whether this is the package for the CPU or the one for GPUs without a driver."""
    with pytest.raises(ExportError, match=r"qformer\.onnx: (ONNX Runtime cannot run this graph with cuda|requested)"):
        OnnxBlip2(gpu_bundle, threads=1, provider=Provider("cuda")).open("qformer")


@pytest.mark.parametrize("bundle", ["fp32_bundle", "gpu_bundle"])
def test_a_cache_in_device_memory_is_extended_moved_and_reordered_as_the_other(
    request: pytest.FixtureRequest, bundle: str
) -> None:
    """The device is the CPU here: addresses, shapes and copies are those of a GPU's cache, in f32 and f16."""
    model = OnnxBlip2(request.getfixturevalue(bundle), threads=1)
    prefixes = model.query(model.image_embeds(np.concatenate([tiny_checkpoint.pixel_values()] * 2)))[1]
    prefixes[1] *= 0.5
    length, info = prefixes.shape[1] + len(PROMPTS[0]), model.decoder_info

    def answers(make: Sequence[KvCache | DeviceKvCache]) -> np.ndarray:
        both, single = make
        logits = [model.prefill(both, prefixes, PROMPTS)]
        both.reorder([1, 0])
        logits.append(model.decode(both, [5, 6], [length, length]))
        model.prefill(single, prefixes[:1], PROMPTS[:1])
        both.store_row(1, single)
        logits.append(model.decode(both, [7, 8], [length + 1, length]))
        logits.append(model.decode(both, [3], [length + 2]).repeat(2, axis=0))
        return np.stack(logits)

    expected = answers([model.cache(rows, length + 4) for rows in (2, 1)])
    found = answers([DeviceKvCache(info, rows, length + 4, device=("cpu", 0)) for rows in (2, 1)])
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(found, expected)


@without_a_driver
@pytest.mark.reference
def test_verify_on_a_gpu_says_at_once_what_is_missing(
    checkpoint: Path, fp32_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    arguments = ["--checkpoint", str(checkpoint), "--bundle", str(folder), "--provider", "cuda"]
    assert cli.main(["verify", *arguments]) == 2
    assert capsys.readouterr().err.startswith("blip2_export verify: --provider cuda: ")
    assert not (folder / "parity.json").exists()
