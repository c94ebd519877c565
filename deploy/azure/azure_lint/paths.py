"""Is something there? Text of a document may be no path at all: too long, or with a zero byte in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def exists(path: Path) -> bool:
    """A file or a folder."""
    return is_file(path) or is_folder(path)


def is_file(path: Path) -> bool:
    """A file."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """A folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
