"""The image settings of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import tiny_checkpoint
from tiny_checkpoint import write_checkpoint

from blip2_export.checkpoint.preprocessing import image_manifest
from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("size", {"shortest_edge": 28}, "shortest_edge"),
        ("size", {"height": 32, "width": 32}, "size is 32x32, the vision encoder takes 28x28"),
        ("resample", 2, "resample is 2"),
        ("do_normalize", False, "do_normalize is False"),
        ("rescale_factor", 1.0, "rescale_factor is 1.0"),
    ],
)
def test_unsupported_preprocessing_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    settings = {**tiny_checkpoint.PREPROCESSOR, key: value}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError) as refused:
        image_manifest(Checkpoint(folder))
    assert message in str(refused.value)


def test_image_settings_may_lie_in_the_processor_s_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    expected = image_manifest(Checkpoint(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ExportError, match="no image settings found"):
        image_manifest(Checkpoint(folder))
    processor = {"image_processor": tiny_checkpoint.PREPROCESSOR}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    assert image_manifest(Checkpoint(folder)) == expected
