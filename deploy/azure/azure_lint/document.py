"""Reads a YAML file into one mapping, and refuses what YAML allows but Azure's tools read in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from azure_lint.finding import Report


class UnreadableFileError(Exception):
    """The file cannot be read at all: missing, a folder, no permission."""


class _DuplicateKeyError(yaml.MarkedYAMLError):
    pass


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that stands twice: PyYAML keeps the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = (key.tag, key.value)
            if name in seen:
                raise _DuplicateKeyError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _said(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return f"{problem}{place}"


def read(path: Path, report: Report) -> dict[Any, Any] | None:
    """The mapping in the file. What is wrong with it goes to the report, and the answer is None.

    # Errors
    `UnreadableFileError` when there is no such file, or it may not be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"{path}: {error.strerror or error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report.fault(f"is not UTF-8 (byte {error.start}): save it as UTF-8")
        return None
    try:
        documents = list(yaml.load_all(text, Loader=_StrictLoader))
    except yaml.YAMLError as error:
        report.fault(f"is not YAML: {_said(error)}")
        return None
    except RecursionError:
        report.fault("is not YAML of this kind: nested too deeply")
        return None
    # Of values that look like a date or a number and are none: 2026-99-99, 0x.
    except (ValueError, OverflowError) as error:
        report.fault(f"holds a value that YAML cannot read: {error}; put it in quotes")
        return None
    if len(documents) > 1:
        report.fault(f"holds {len(documents)} YAML documents: one is allowed, put each in a file of its own")
        return None
    if not documents or documents[0] is None:
        report.fault("is empty: it has to hold one mapping, as `name: …`")
        return None
    if not isinstance(documents[0], dict):
        report.fault(f"holds a {type(documents[0]).__name__}, not a mapping: `name: …` and so on are expected")
        return None
    return documents[0]
