"""Keeps the file of answers: a header line with the settings, then a JSON line per row, written as answers arrive.

A run that was stopped, or killed in the middle of a line, can be resumed. Answers of two models or two prompts never
end up in one file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from blip2_export.evaluation.datasets import Id

Json = dict[str, Any]

FORMAT = "blip2_evaluate"
VERSION = 1
ERROR = "error"


class Results:
    """The answers so far, and their file, open for more."""

    def __init__(self, path: Path, settings: Json, id_key: str, answer_key: str) -> None:
        """Opens the file for more answers, or creates it.

        Raises:
            ExportError: it cannot be used, is not such a file, or was begun with other settings.
        """
        self.path = path
        self.answers: dict[Id, str] = {}
        self.errors: dict[Id, str] = {}
        self.dropped_bytes = 0
        self._id_key, self._answer_key = id_key, answer_key
        # Written with the first answer: a run that got none leaves the file free for other settings.
        self._header: Json | None = {FORMAT: VERSION, **settings}
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise ExportError(f"{path}: {error.strerror}; --output must name the file for the answers") from error
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add_answer(self, sample_id: Id, detail: Json, answer: str) -> None:
        """Writes an answer; `detail` stands between the id and the answer, for readers."""
        self._write({self._id_key: sample_id, **detail, self._answer_key: answer})
        self._remember(sample_id, answer, None)

    def add_error(self, sample_id: Id, detail: Json, error: str) -> None:
        """Writes the reason why a row has no answer. A later run asks it again."""
        self._write({self._id_key: sample_id, **detail, ERROR: error})
        self._remember(sample_id, None, error)

    def _remember(self, sample_id: Id, answer: str | None, error: str | None) -> None:
        """Keeps the last line about a row."""
        self.answers.pop(sample_id, None)
        self.errors.pop(sample_id, None)
        if answer is not None:
            self.answers[sample_id] = answer
        elif error is not None:
            self.errors[sample_id] = error

    def _write(self, line: Json) -> None:
        lines = [line] if self._header is None else [self._header, line]
        try:
            self._file.write("".join(json.dumps(entry) + "\n" for entry in lines).encode())
            self._file.flush()
            self._header = None
        except OSError as error:
            raise ExportError(f"{self.path}: {error.strerror}; what was written before is kept") from error

    def _read(self) -> None:
        self._file.seek(0)
        whole_bytes = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._drop_torn(number, line, whole_bytes)
                break
            if number == 1:
                self._check_header(line)
            else:
                self._read_line(number, line)
            whole_bytes += len(line)

    def _drop_torn(self, number: int, line: bytes, whole_bytes: int) -> None:
        start = f'{{"{FORMAT}"'.encode()
        if number == 1 and not (line.startswith(start) or start.startswith(line)):
            raise self._foreign()
        self._file.truncate(whole_bytes)
        self.dropped_bytes = len(line)

    def _foreign(self) -> ExportError:
        return ExportError(f"{self.path}: exists and is not a file of `evaluate`; name another --output")

    def _check_header(self, line: bytes) -> None:
        written, wanted = _object(line), self._header
        if written is None or FORMAT not in written:
            raise self._foreign()
        for key in (*wanted, *written):
            before, now = (json.dumps(side.get(key), sort_keys=True) for side in (written, wanted))
            if before != now:
                raise ExportError(
                    f"{self.path}: was begun with {key} {before}, now it is {now}; "
                    "name another --output, or run with the settings of its first line"
                )
        self._header = None

    def _read_line(self, number: int, line: bytes) -> None:
        entry = _object(line)
        sample_id = entry.get(self._id_key) if entry else None
        texts = [entry.get(key) for key in (self._answer_key, ERROR)] if entry else []
        if not isinstance(sample_id, int | str) or not any(isinstance(text, str) for text in texts):
            raise ExportError(f"{self.path}: line {number} holds no answer; delete the line and run again")
        self._remember(sample_id, *texts)


def _object(line: bytes) -> Json | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
