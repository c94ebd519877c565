"""Runs the checks over files, each alone and then together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from azure_lint import batch_deployment, endpoint, environment, model, online_deployment, service
from azure_lint.document import UnreadableFileError, read
from azure_lint.finding import Finding, Report
from azure_lint.kinds import kind_of
from azure_lint.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Options", "UnreadableFileError", "lint_files"]

_REPOSITORY_DOCKERFILE = Path(__file__).resolve().parents[3] / "Dockerfile"


@dataclass(frozen=True)
class Options:
    """`kind` for files that do not say; `dockerfile` of images that are named, not built; `start_s` where measured."""

    kind: str | None = None
    dockerfile: Path | None = _REPOSITORY_DOCKERFILE if _REPOSITORY_DOCKERFILE.is_file() else None
    start_s: float | None = None


def lint_files(paths: Iterable[Path], options: Options | None = None) -> list[Finding]:
    """All that is wrong in the files.

    # Errors
    `UnreadableFileError` when one of them cannot be read.
    """
    options = options or Options()
    reports: list[Report] = []
    registered: dict[tuple[str, str], set[str]] = {}
    used: list[tuple[Report, str, tuple[str, str]]] = []
    for path in paths:
        report = Report(path)
        reports.append(report)
        mapping = read(path, report)
        if mapping is None:
            continue
        document = Section(mapping, report)
        kind = options.kind or kind_of(document)
        if kind in ("model", "environment") and document.has("name"):
            registered.setdefault((kind, str(document.get("name"))), set()).add(str(document.get("version")))
        used.extend((report, what, reference) for what, reference in _check(document, kind, options).items())
    for report, what, (name, version) in used:
        versions = registered.get((what, name))
        # A label, as @latest, is no version; a file without a version registers the next one.
        if versions is not None and version.isdigit() and version not in versions and "None" not in versions:
            report.error(
                what,
                f"azureml:{name}:{version}",
                f"version {', '.join(sorted(versions))} is what the other files register",
            )
    return [finding for report in reports for finding in report.findings]


def _check(document: Section, kind: str | None, options: Options) -> dict[str, tuple[str, str]]:
    if kind == "environment":
        environment.check(document, dockerfile=options.dockerfile, settings=service.Settings())
    elif kind == "model":
        model.check(document)
    elif kind == "online-endpoint":
        endpoint.check_online(document)
    elif kind == "batch-endpoint":
        endpoint.check_batch(document)
    elif kind == "online-deployment":
        return online_deployment.check(document, options.dockerfile, options.start_s)
    elif kind == "batch-deployment":
        return batch_deployment.check(document)
    return {}
