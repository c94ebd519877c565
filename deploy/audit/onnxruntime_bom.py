"""Writes the bill of materials of ONNX Runtime as images have it, CycloneDX: the packages of a lock file that it comes
from, and every library in a folder with its sha256.

The libraries come out of wheels, so no tool for crates or Python environments sees them. Runs where the exporter's
packages are installed. What is linked into libonnxruntime.so itself is in its ThirdPartyNotices.txt, which the images
have too.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL

PINNED = re.compile(r"^([\w.-]+)==(\S+)((?:\s*\\\n\s*--hash=sha256:[0-9a-f]{64})*)", re.MULTILINE)
LICENCES = {"onnxruntime": DisjunctiveLicense(id="MIT"), "onnxruntime-gpu": DisjunctiveLicense(id="MIT")}
NVIDIA = DisjunctiveLicense(name="NVIDIA Proprietary Software")


def main() -> None:
    """Reads the arguments and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, required=True, metavar="FILE", help="what get_onnxruntime fetched")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where it put it")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(document(options.lock, options.folder), encoding="utf-8")


def document(lock: Path, folder: Path) -> str:
    """The bill as JSON."""
    bom = Bom(components=[*_packages(lock), *_libraries(folder)])
    bom.metadata.timestamp = datetime.fromtimestamp(0, UTC)
    text = JsonV1Dot5(bom).output_as_string(indent=2)
    # It is random, and the same files shall give the same bytes.
    return re.sub(r'\n  "serialNumber": "[^"]*",', "", text) + "\n"


def _packages(lock: Path) -> list[Component]:
    found = PINNED.findall(lock.read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"onnxruntime_bom: {lock} pins no package")
    return [
        Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"pkg:pypi/{name}@{version}",
            purl=PackageURL("pypi", None, name, version),
            licenses=[LICENCES.get(name, NVIDIA)],
            # A wheel for each kind of processor.
            hashes=[_sha256(value) for value in re.findall(r"sha256:([0-9a-f]{64})", hashes)],
        )
        for name, version, hashes in found
    ]


def _libraries(folder: Path) -> list[Component]:
    files = sorted(path for path in folder.glob("lib*.so*") if path.is_file() and not path.is_symlink())
    if not files:
        raise SystemExit(f"onnxruntime_bom: {folder} has no lib*.so")
    found = []
    for path in files:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found.append(
            Component(type=ComponentType.FILE, name=path.name, bom_ref=f"file:{path.name}", hashes=[_sha256(digest)])
        )
    return found


def _sha256(value: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=value)


if __name__ == "__main__":
    main()
