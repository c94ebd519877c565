"""What would be sent to a cluster: folders as kubectl's own kustomize renders them, and single files."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "deploy" / "kubernetes"

# Beside the interpreter of the environment, so that no other kubectl of the machine decides.
KUBECTL = Path(sys.executable).with_name("kubectl")

# What a user applies, as a folder or a file.
APPLIED = ("base", "overlays/production", "overlays/gpu", "kserve", "export-model.yaml")

Manifest = dict[str, Any]


@cache
def render(path: str) -> list[Manifest]:
    """The manifests that `kubectl apply -k` (a folder) or `-f` (a file) would send."""
    source = FOLDER / path
    if source.is_file():
        return load(source)
    done = subprocess.run([KUBECTL, "kustomize", source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"kubectl kustomize {source}: {done.stderr.strip()}")
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def load(file: Path) -> list[Manifest]:
    """The manifests of one file."""
    return [manifest for manifest in yaml.safe_load_all(file.read_text("utf-8")) if manifest]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def broken(manifest: Manifest, place: str, value: object) -> Manifest:
    """A copy with one value set at a place such as `spec.ports.0.port`."""
    copy = deepcopy(manifest)
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    inner: Any = copy
    for step in way:
        inner = inner[step]
    inner[last] = value
    return copy
