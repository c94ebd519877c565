"""Checkpoints by id. The hub itself is replaced: tests have no network."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

import pytest

from blip2_export.errors import ExportError
from blip2_export.hub import local_folder

if TYPE_CHECKING:
    from pathlib import Path


class HubError(OSError):
    """Stands for the library's errors."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """A stand-in for huggingface_hub that knows one repository; returns the calls made."""
    calls: list[tuple] = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo_id, revision, tuple(allow_patterns)))
        if repo_id != "Salesforce/blip2-opt-2.7b":
            raise HubError("404 Client Error.\n\nRepository Not Found for url: …")
        return str(tmp_path)

    library = types.ModuleType("huggingface_hub")
    library.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return calls


def test_an_id_is_downloaded_at_its_revision(hub: list[tuple], tmp_path: Path) -> None:
    assert local_folder("Salesforce/blip2-opt-2.7b", "51572668") == tmp_path
    (call,) = hub
    assert call[:2] == ("Salesforce/blip2-opt-2.7b", "51572668")
    assert "*.safetensors" in call[2]
    assert not any("bin" in pattern for pattern in call[2])


def test_an_unknown_id_is_one_line(hub: list[tuple]) -> None:
    with pytest.raises(ExportError) as refused:
        local_folder("nobody/nothing", "main")
    assert str(refused.value).startswith("nobody/nothing at revision main: is no folder, and cannot be downloaded")
    assert "\n" not in str(refused.value)
    assert len(hub) == 1


def test_a_folder_is_taken_as_it_is_and_has_no_revision(hub: list[tuple], tmp_path: Path) -> None:
    assert local_folder(str(tmp_path), None) == tmp_path
    with pytest.raises(ExportError, match="--revision main"):
        local_folder(str(tmp_path), "main")
    assert hub == []


def test_without_the_extra_an_id_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExportError, match=r"pip install 'blip2-export\[hub\]'"):
        local_folder("Salesforce/blip2-opt-2.7b", None)
