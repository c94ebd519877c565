"""The ports that a Dockerfile exposes. A local endpoint publishes no others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_EXPOSE = re.compile(r"^\s*EXPOSE\s+(.+?)\s*$", re.IGNORECASE)
_DEFAULT = re.compile(r"^\s*(?:ARG|ENV)\s+([A-Za-z_][A-Za-z0-9_]*)(?:=|\s+)[\"']?([^\s\"']+)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")


def exposed_ports(dockerfile: Path) -> set[int]:
    """Of all stages together. Ports behind variables count with the default of their ARG or ENV.

    # Errors
    `OSError` and `UnicodeDecodeError` when it cannot be read.
    """
    values: dict[str, str] = {}
    ports: set[int] = set()
    text = re.sub(r"\\\r?\n", " ", dockerfile.read_text(encoding="utf-8"))
    for line in text.splitlines():
        if given := _DEFAULT.match(line):
            values[given[1]] = given[2]
        elif exposed := _EXPOSE.match(line):
            ports.update(_ports(_VARIABLE.sub(lambda name: values.get(name[1] or name[3], name[2] or ""), exposed[1])))
    return ports


def _ports(words: str) -> set[int]:
    ports: set[int] = set()
    for word in words.split():
        if span := re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/tcp)?", word, re.IGNORECASE):
            ports.update(range(int(span[1]), int(span[2] or span[1]) + 1))
    return ports
