#!/usr/bin/env python3
"""Checks Azure ML YAML for faults that `az ml` and azure-ai-ml let pass: `python deploy/azure/lint.py FILES`.

Needs PyYAML, and neither Azure nor its packages. Ends with 0 when nothing is wrong, 1 when something is, and 2 when it
was called wrongly or a file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

try:
    from azure_lint import Options, UnreadableFileError, lint_files, paths
    from azure_lint.kinds import KINDS
except ModuleNotFoundError as missing:
    if missing.name != "yaml":
        raise
    print("lint.py: PyYAML is missing: pip install pyyaml", file=sys.stderr)
    sys.exit(2)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86400:
        raise ValueError
    return value


def main(arguments: list[str] | None = None) -> int:
    """The command. Answers with its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0], allow_abbrev=False)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a YAML file, or a folder of *.yml and *.yaml"
    )
    parser.add_argument("--kind", choices=KINDS, help="what the files are, where they have no $schema")
    parser.add_argument("--dockerfile", type=Path, help="whose EXPOSE the ports must match (default: the repository's)")
    parser.add_argument("--start-s", type=_seconds, help="measured start until ready, instead of the one in bundles.py")
    parser.add_argument("--strict", action="store_true", help="end with 1 on warnings too")
    given = parser.parse_args(arguments)
    options = Options(kind=given.kind, start_s=given.start_s)
    if given.dockerfile is not None:
        if not given.dockerfile.is_file():
            parser.error(f"--dockerfile {given.dockerfile}: no such file")
        options = replace(options, dockerfile=given.dockerfile)
    files: list[Path] = []
    for path in given.files:
        inside = sorted([*path.glob("*.yml"), *path.glob("*.yaml")]) if paths.is_folder(path) else [path]
        if not inside:
            parser.error(f"{path}: no *.yml or *.yaml in this folder")
        files.extend(inside)
    try:
        findings = lint_files(files, options)
    except UnreadableFileError as error:
        print(f"lint.py: {error}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    failed = [finding for finding in findings if given.strict or finding.severity == "error"]
    print(f"{len(files)} files, {len(findings)} findings", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
