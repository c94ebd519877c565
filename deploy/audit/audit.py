"""Looks through everything that is shipped or run: licences, sources, known vulnerabilities. `make audit` runs it.

The tools do the work: cargo deny for crates by deny.toml, pip-audit and pip-licenses for Python packages. What is
vulnerable is in databases on the network. Where one cannot be asked, a line says so and the rest is done; --strict
makes that a fault, for machines that have to reach them. Exit code 1: something was found, 2: a tool could not do its
work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# As the packages of the exporter's image name them. Each asks for no more than its text, which lies beside the package;
# tqdm's MPL-2.0 asks besides that changes to its files be published, and there are none.
ALLOWED = (
    "3-Clause BSD License",
    "Apache Software License",
    "Apache-2.0",
    "Apache-2.0 OR BSD-2-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    "MIT",
    "MIT License",
    "MIT-CMU",
    "MPL-2.0 AND MIT",
    "PSF-2.0",
    "Python Software Foundation License",
)
PASSED, FOUND, NOT_CHECKED, BROKEN = "passed", "found", "not checked", "broken"
EXIT_CODES = {PASSED: 0, NOT_CHECKED: 0, FOUND: 1, BROKEN: 2}


@dataclass(frozen=True)
class Outcome:
    """What a check came to. `details` are lines for the person who has to act."""

    check: str
    state: str
    details: str = ""


def main() -> int:
    """Runs all checks, prints an outcome a line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cargo-deny", type=Path, required=True, metavar="FILE", help="the program")
    parser.add_argument("--python", type=Path, required=True, help="that of the environment whose licences are checked")
    parser.add_argument("--strict", action="store_true", help="a database that cannot be asked is a fault")
    options = parser.parse_args()
    outcomes = [crates(options.cargo_deny), crate_advisories(options.cargo_deny), python_licences(options.python)]
    outcomes += [python_advisories(lock) for lock in locks()]
    for outcome in outcomes:
        print(f"{outcome.check:<44} {outcome.state}{f': {outcome.details}' if outcome.details else ''}", flush=True)
    if options.strict and any(outcome.state == NOT_CHECKED for outcome in outcomes):
        return 2
    return max(EXIT_CODES[outcome.state] for outcome in outcomes)


def locks() -> list[Path]:
    """Every lock file of Python packages in the repository."""
    return sorted(
        path
        for path in REPOSITORY.rglob("*.lock")
        if path.name != "Cargo.lock"
        and not any(part == "target" or part.startswith(".") for part in path.relative_to(REPOSITORY).parts)
    )


def crates(cargo_deny: Path, manifest: Path = REPOSITORY / "Cargo.toml") -> Outcome:
    """Licences, bans and sources of the crates, by deny.toml."""
    done = _run(
        [cargo_deny, "--manifest-path", manifest, "--locked", "--config", REPOSITORY / "deny.toml"],
        ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"],
    )
    return Outcome("crates: licences, bans, sources", *_by_code(done))


def crate_advisories(cargo_deny: Path) -> Outcome:
    """Known vulnerabilities of the crates. An older copy of the database does, as long as deny.toml's age allows it."""
    check = "crates: advisories"
    fetched = _run([cargo_deny, "fetch", "db"])
    done = _run([cargo_deny, "--locked", "--offline", "check", "--hide-inclusion-graph", "advisories"])
    if done.returncode == 0:
        return Outcome(check, PASSED, "" if fetched.returncode == 0 else "by the database of an earlier run")
    if fetched.returncode != 0 and "error[" not in done.stderr:
        return Outcome(check, NOT_CHECKED, f"the RustSec database cannot be fetched ({_last(fetched.stderr)})")
    return Outcome(check, FOUND, f"\n{done.stderr.strip()}")


def python_licences(python: Path) -> Outcome:
    """The licences of what an environment holds."""
    done = _run(
        [_beside("pip-licenses"), "--python", python, "--from=mixed", "--format=json"],
        ["--ignore-packages", "pip", "setuptools"],
    )
    if done.returncode != 0:
        return Outcome("exporter's image: licences", BROKEN, _last(done.stderr))
    packages = json.loads(done.stdout)
    refused = [
        f"{package['Name']} {package['Version']}: {package['License']}"
        for package in packages
        if package["License"] not in ALLOWED
    ]
    unused = sorted(set(ALLOWED) - {package["License"] for package in packages})
    found = [f"not in ALLOWED of deploy/audit/audit.py: {line}" for line in refused]
    found += [
        f"no package has it any more, so remove it from ALLOWED of deploy/audit/audit.py: {licence}"
        for licence in unused
    ]
    return Outcome("exporter's image: licences", FOUND if found else PASSED, "\n  ".join(["", *found]) if found else "")


def python_advisories(lock: Path) -> Outcome:
    """Known vulnerabilities of the packages in a lock file, as PyPI knows them."""
    check = f"{lock.relative_to(REPOSITORY) if lock.is_relative_to(REPOSITORY) else lock}: advisories"
    done = _run(
        [_beside("pip-audit"), "--requirement", lock, "--no-deps", "--disable-pip", "--format", "json"],
        ["--progress-spinner", "off", "--timeout", "20"],
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return Outcome(check, *_without_answer(done.stderr))
    unknown = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    if packages and len(unknown) == len(packages):  # a mirror has the packages, and not what is known about them
        return Outcome(
            check, NOT_CHECKED, f"the package index here knows nothing about any of {len(packages)} packages"
        )
    found = unknown + [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    return Outcome(check, FOUND if found else PASSED, "\n  ".join(["", *found]) if found else "")


def _without_answer(errors: str) -> tuple[str, str]:
    """pip-audit names what the network does with these words; all else is a fault of the lock file or the tool."""
    words = ("connect", "connection", "timed out", "resolve", "service", "HTTP")
    last = _last(errors)
    return (NOT_CHECKED if any(word.lower() in last.lower() for word in words) else BROKEN), last


def _by_code(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    if done.returncode == 0:
        return PASSED, ""
    return FOUND, f"\n{(done.stderr + done.stdout).strip()}"


def _run(*words: list[str | Path]) -> subprocess.CompletedProcess[str]:
    command = [str(word) for part in words for word in part]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def _beside(program: str) -> Path:
    """A program of the environment that this runs in."""
    return Path(sys.executable).with_name(program)


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


if __name__ == "__main__":
    sys.exit(main())
