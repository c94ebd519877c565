"""The audit finds what it is there for: tests put in what may not be, and the real tools have to say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import audit

TOOL = Path(os.environ.get("BLIP2_CARGO_DENY", audit.REPOSITORY / "target/tools/bin/cargo-deny"))
needs_cargo_deny = pytest.mark.skipif(not TOOL.exists(), reason=f"{TOOL} is not there: make audit builds it")


def crate(folder: Path, name: str, licence: str, dependencies: str = "") -> Path:
    (folder / "src").mkdir(parents=True)
    (folder / "src/lib.rs").touch()
    manifest = folder / "Cargo.toml"
    package = f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2024"\nlicense = "{licence}"\n'
    manifest.write_text(f"{package}\n[dependencies]\n{dependencies}")
    return manifest


@needs_cargo_deny
def test_the_crates_pass() -> None:
    assert audit.crates(TOOL) == audit.Outcome("crates: licences, bans, sources", audit.PASSED)


@needs_cargo_deny
@pytest.mark.parametrize(
    ("name", "licence", "reason"),
    [
        ("other", "GPL-3.0-only", 'license = "GPL-3.0-only"'),
        ("openssl-sys", "MIT", "crate 'openssl-sys = 0.1.0' is explicitly banned"),
        ("ort-sys", "MIT", "feature 'download-binaries'"),
    ],
)
def test_a_crate_that_may_not_be_is_refused(tmp_path: Path, name: str, licence: str, reason: str) -> None:
    added = crate(tmp_path / "added", name, licence)
    added.write_text(added.read_text() + "\n[features]\ndownload-binaries = []\n")
    dependency = f'{name} = {{ path = "../added", version = "0.1", features = ["download-binaries"] }}\n'
    manifest = crate(tmp_path / "crate", "crate", "MIT", dependency)
    subprocess.run(["cargo", "generate-lockfile", "--offline", "--manifest-path", manifest], check=True)
    outcome = audit.crates(TOOL, manifest)
    assert outcome.state == audit.FOUND
    assert reason in outcome.details


def test_a_package_with_another_licence_is_named(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    [packages] = (tmp_path / "venv/lib").glob("python*/site-packages")
    (packages / "left-1.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.4\nName: left\nVersion: 1.0\nLicense-Expression: AGPL-3.0-only\n"
    (packages / "left-1.0.dist-info/METADATA").write_text(metadata)
    outcome = audit.python_licences(tmp_path / "venv/bin/python")
    assert outcome.state == audit.FOUND
    assert "not in ALLOWED of deploy/audit/audit.py: left 1.0: AGPL-3.0-only" in outcome.details
    assert "no package has it any more, so remove it from ALLOWED of deploy/audit/audit.py: MIT-CMU" in outcome.details


SAFE = {"name": "safe", "version": "1", "vulns": []}
FLAWED = {"name": "flawed", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "errors", "state", "detail"),
    [
        ([SAFE], "", audit.PASSED, ""),
        ([SAFE, FLAWED], "Found 1 known vulnerability", audit.FOUND, "flawed 2: PYSEC-1, fixed in 3"),
        # One that nobody knows beside others that are known may be made up.
        ([SAFE, UNKNOWN], "", audit.FOUND, "unknown: not found on PyPI"),
        ([UNKNOWN], "", audit.NOT_CHECKED, "knows nothing about any of 1 packages"),
        (None, "ERROR:pip_audit._cli:Could not connect to PyPI", audit.NOT_CHECKED, "Could not connect"),
        (None, "ERROR:pip_audit._cli:requirement is not pinned", audit.BROKEN, "is not pinned"),
    ],
)
def test_advisories_are_found_and_their_absence_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: list | None, errors: str, state: str, detail: str
) -> None:
    said = tmp_path / "said"
    said.write_text("" if packages is None else json.dumps({"dependencies": packages, "fixes": []}))
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat '{said}'\necho '{errors}' >&2\n")
    program.chmod(0o755)
    monkeypatch.setattr(audit, "_beside", lambda _: program)
    outcome = audit.python_advisories(tmp_path / "x.lock")
    assert outcome.state == state
    assert detail in outcome.details


def test_every_lock_file_is_looked_at() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.lock"], cwd=audit.REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    found = {str(path.relative_to(audit.REPOSITORY)) for path in audit.locks()}
    assert found >= set(listed) - {"Cargo.lock"}
    assert "export/requirements-image.lock" in found


def test_every_locked_package_is_pinned_and_the_image_has_those_that_were_tested() -> None:
    def pinned(name: str) -> dict[str, str]:
        lines = (audit.REPOSITORY / "export" / name).read_text().splitlines()
        pairs = (line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#"))
        return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in pairs}

    image, tested = pinned("requirements-image.lock"), pinned("requirements.lock")
    assert {name: tested.get(name) for name in image} == image
    assert not {"torch", "transformers", "pytest", "ruff"} & set(image)
