"""A mapping of the document, whose fields are asked for by name, type and range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from azure_lint.finding import Report


class Section:
    """Fields under one path. Every getter reports what is wrong, and returns None for it."""

    def __init__(self, mapping: dict[Any, Any], report: Report, path: str = "") -> None:
        self.mapping = mapping
        self.report = report
        self.path = path

    @property
    def folder(self) -> Path:
        """Relative paths of the file start here."""
        return self.report.file.parent

    def where(self, key: str) -> str:
        """The full name of a field, as `readiness_probe.period`."""
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str) -> object:
        """The value as it stands; None when absent."""
        return self.mapping.get(key)

    def has(self, key: str) -> bool:
        """Is it there, and not null?"""
        return self.mapping.get(key) is not None

    def section(self, key: str) -> Section | None:
        """A mapping below this one; None when absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.report.error(self.where(key), value, "must be a mapping of fields")
            return None
        return Section(value, self.report, self.where(key))

    def text(self, key: str) -> str | None:
        """Text; None when absent. A bare number or yes is no text."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.report.error(self.where(key), value, "must be text: put it in quotes")
            return None
        if not value.strip():
            self.report.error(self.where(key), value, "must not be empty")
            return None
        return value

    def integer(self, key: str, least: int, most: int | None = None, unit: str = "") -> int | None:
        """A whole number of a range; None when absent."""
        value = self.get(key)
        if value is None:
            return None
        limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
        allowed = f"must be a whole number {limits}{unit and ' ' + unit}"
        # In Python, True is a number.
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or value < least
            or (most is not None and value > most)
        ):
            self.report.error(self.where(key), value, allowed)
            return None
        return value

    def choice(self, key: str, allowed: tuple[str, ...], any_case: bool = False) -> str | None:
        """One of a few words; None when absent."""
        value = self.get(key)
        if value is None:
            return None
        given = value.lower() if any_case and isinstance(value, str) else value
        if not isinstance(given, str) or given not in allowed:
            self.report.error(self.where(key), value, f"must be one of {', '.join(allowed)}")
            return None
        return given

    def required(self, key: str, why: str) -> bool:
        """Reports a field that is absent."""
        if not self.has(key):
            self.report.missing(self.where(key), why)
        return self.has(key)
