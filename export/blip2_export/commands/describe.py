"""Writes a bundle's model card, bill of materials and MLmodel anew, from its manifest and parity certificate.

`export` and `verify` write them too; use this command for bundles of an older exporter. Graphs, golden answers and
certificate are compared with their hashes first, and stay the same to the byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

EXAMPLES = """\
examples:
  python -m blip2_export describe --bundle onnx/blip2-opt-2.7b-int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the bundle to describe")


def run(options: argparse.Namespace) -> int:
    """Writes the documents."""
    from blip2_export.bundle.folder import check_files, read_manifest, replace_files
    from blip2_export.description.documents import documents
    from blip2_export.description.names import DOCUMENTS
    from blip2_export.description.parity_file import read_certificate
    from blip2_export.progress import progress

    manifest = read_manifest(options.bundle)
    kept = {name: entry for name, entry in manifest["files"].items() if name not in DOCUMENTS}
    check_files(options.bundle, {**manifest, "files": kept})
    replace_files(options.bundle, DOCUMENTS, documents(manifest, read_certificate(options.bundle, manifest)))
    progress(f"wrote {', '.join(DOCUMENTS)} into {options.bundle}")
    return 0
