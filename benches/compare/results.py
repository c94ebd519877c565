"""The record of a comparison: one JSON file, whole after every run, from which page and charts are drawn again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from compare.errors import CompareError
from compare.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Json = dict[str, Any]

VERSION = 1


@dataclass(frozen=True)
class Results:
    """The JSON object, and the questions that are asked of it."""

    document: Json

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises CompareError when the file is none of ours."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise CompareError(f"{path}: {error}") from error
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise CompareError(f"{path}: not results of this version of compare; measure anew")
        return cls(document)

    def write(self, path: Path) -> None:
        """Beside its place first, so that a run that breaks leaves the last whole file."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        fresh.replace(path)

    @property
    def contenders(self) -> list[str]:
        """In the order of the flags."""
        return list(self.document["contenders"])

    @property
    def cases(self) -> dict[str, Json]:
        """Title, rows, new tokens and manner, by name."""
        return self.document["cases"]

    def runs(self, contender: str) -> list[Json]:
        """One for each round."""
        return [run for run in self.document["runs"] if run["contender"] == contender]

    def is_done(self, round_number: int, contender: str) -> bool:
        """Whether a run need not be repeated."""
        return any(run["round"] == round_number for run in self.runs(contender))

    def best_batch(self, contender: str, case: str) -> int | None:
        """The size of static batch with the least median; None where there was nothing to choose."""
        seconds: dict[int, list[float]] = {}
        for measurement in self._measurements(contender, case):
            if measurement["batch"] is not None:
                seconds.setdefault(measurement["batch"], []).extend(measurement["seconds"])
        return min(seconds, key=lambda batch: median(seconds[batch]), default=None)

    def seconds(self, contender: str, case: str, batch: int | None = None) -> list[float]:
        """All passes of all rounds, of the best static batch if none is named."""
        return [value for values in self._by_round(contender, case, batch).values() for value in values]

    def round_medians(self, contender: str, case: str) -> dict[int, float]:
        """The median of each round."""
        return {number: median(values) for number, values in self._by_round(contender, case, None).items()}

    def spread(self, contender: str, case: str) -> Spread | None:
        """None where the contender did not run the case."""
        return Spread.of(self.seconds(contender, case))

    def stages(self, contender: str, case: str) -> Sequence[Json]:
        """Milliseconds by stage, with the whole as `wall`, of all passes that told them."""
        told = []
        for measurement in self._measurements(contender, case):
            for stages, seconds in zip(measurement["stages"], measurement["seconds"], strict=False):
                told.append({**_by_name_today(stages), "wall": seconds * 1000})
        return told

    def stage_floors(self, contender: str) -> Json:
        """The least milliseconds of each stage."""
        return _by_name_today(self.document["floors"].get(contender, {}).get("stages_ms", {}))

    def of_runs(self, contender: str, key: str) -> Spread | None:
        """`start_s`, `first_answer_s`, `resident`, …, over all rounds."""
        values = [run[key] for run in self.runs(contender) if run.get(key) is not None]
        return Spread.of(values)

    def floor(self, contender: str, case: str) -> float | None:
        """The least seconds of one pass."""
        return self.document["floors"].get(contender, {}).get("cases", {}).get(case)

    def _by_round(self, contender: str, case: str, batch: int | None) -> dict[int, list[float]]:
        best = batch or self.best_batch(contender, case)
        seconds: dict[int, list[float]] = {}
        for run in self.runs(contender):
            for measurement in run["measurements"]:
                if measurement["case"] == case and measurement["batch"] == best:
                    seconds.setdefault(run["round"], []).extend(measurement["seconds"])
        return seconds

    def _measurements(self, contender: str, case: str) -> list[Json]:
        runs = self.runs(contender)
        return [measurement for run in runs for measurement in run["measurements"] if measurement["case"] == case]


def _by_name_today(stages: Json) -> Json:
    """Stages under the names of the service. Older results say `vision` for the vision encoder."""
    return {"vision_encoder" if name == "vision" else name: value for name, value in stages.items()}
