"""What a check found: where, what is there, and what is allowed."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A document may hold ten references to ten references: nothing of it is printed in full.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 2, 6, 6


def shown(value: object) -> str:
    """A value as it appears in a message: short, on one line."""
    return "null" if value is None else _SHORT.repr(value)


@dataclass(frozen=True)
class Finding:
    """One fault of one file. `value` is None where there is nothing to show, as for a missing field."""

    file: Path
    severity: str
    field: str
    value: str | None
    allowed: str

    def __str__(self) -> str:
        there = f" is {self.value}" if self.value is not None else ""
        return f"{self.file}: {self.severity}: {self.field}{there}: {self.allowed}"


@dataclass
class Report:
    """Collects the findings of one file."""

    file: Path
    findings: list[Finding] = field(default_factory=list)

    def _add(self, severity: str, where: str, value: str | None, allowed: str) -> None:
        self.findings.append(Finding(self.file, severity, where, value, allowed))

    def error(self, where: str, value: object, allowed: str) -> None:
        """A value that cannot work."""
        self._add("error", where, shown(value), allowed)

    def missing(self, where: str, allowed: str) -> None:
        """A field that has to be there."""
        self._add("error", where, "missing", allowed)

    def warning(self, where: str, value: object, allowed: str) -> None:
        """A value that works, but hardly as meant. Fails under `--strict` alone."""
        self._add("warning", where, shown(value), allowed)

    def fault(self, allowed: str) -> None:
        """A fault of the file as a whole."""
        self._add("error", "the file", None, allowed)
