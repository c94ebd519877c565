"""Compares every file of a bundle with the hash in its manifest, as the server does before it answers.

Use it after an export, a download or a copy. It needs neither the checkpoint nor ONNX Runtime, and reads a bundle of
4 GB in seconds. It does not look at the answers; `verify` and `blip2 verify` do. Exit code 2 means that a file is
missing or differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

EXAMPLES = """\
examples:
  python -m blip2_export check --bundle onnx/blip2-opt-2.7b-int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the bundle to check")


def run(options: argparse.Namespace) -> int:
    """Checks the bundle."""
    check(options.bundle)
    return 0


def check(folder: Path) -> None:
    """Compares all files with their hashes, and prints how many there are.

    Raises:
        ExportError: a file is missing or differs.
    """
    from blip2_export.bundle.folder import check_files, read_manifest
    from blip2_export.progress import ByteProgress, size

    manifest = read_manifest(folder)
    files = manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    with ByteProgress(total) as bar:
        bar.stage("comparing hashes")
        for name, entry in files.items():
            check_files(folder, {"files": {name: entry}})
            bar.advance(entry["bytes"])
    print(f"{folder}: {len(files)} files, {size(total)}, all hashes match the manifest")
