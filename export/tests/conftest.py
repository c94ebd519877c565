"""The tiny checkpoint and its two bundles, made once per run."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import tiny_checkpoint

from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.verification.onnx_blip2 import OnnxBlip2

if TYPE_CHECKING:
    from pathlib import Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that compare with transformers are skipped where it is not installed."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        skip = pytest.mark.skip(reason=f"{missing[0]} is not installed (extra `reference`)")
        for item in items:
            if item.get_closest_marker("reference"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, in three shards, without tokenizer.json."""
    return tiny_checkpoint.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", shards=3)


def _bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, precision: str) -> Path:
    output = tmp_path_factory.mktemp("bundle") / precision
    export(ExportOptions(checkpoint, output, precision=precision))
    return output


@pytest.fixture(scope="session")
def fp32_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle; tests must not change it."""
    return _bundle(checkpoint, tmp_path_factory, "fp32")


@pytest.fixture(scope="session")
def int8_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle; tests must not change it."""
    return _bundle(checkpoint, tmp_path_factory, "int8")


@pytest.fixture(scope="session")
def fp32_model(fp32_bundle: Path) -> OnnxBlip2:
    """The fp32 bundle's sessions."""
    return OnnxBlip2(fp32_bundle, threads=1)


@pytest.fixture(scope="session")
def int8_model(int8_bundle: Path) -> OnnxBlip2:
    """The int8 bundle's sessions."""
    return OnnxBlip2(int8_bundle, threads=1)
