"""Defines the two tasks: what is asked, the keys of an answer in the file, and the final report."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol

from blip2_export.evaluation.caption_metrics import TOKENIZERS, caption_scores
from blip2_export.evaluation.datasets import (
    check_samples,
    read_annotations,
    read_captioned,
    read_questions,
    read_references,
    read_source,
)
from blip2_export.evaluation.vqa_accuracy import vqa_accuracy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from blip2_export.evaluation.datasets import Id, Sample
    from blip2_export.evaluation.settings import Settings

Json = dict[str, Any]


class Task(Protocol):
    """A task as the command sees it."""

    samples: list[Sample]
    sample_name: str
    id_key: str
    answer_key: str

    def record(self) -> Json:
        """Returns which data it is, for the header of the answers."""

    def note(self, sample: Sample, answer: str | None) -> str:
        """Returns a note for the progress after an answer; `None` is a refused row."""

    def report(self, answers: Mapping[Id, str]) -> str:
        """Returns the result. A sample without an answer counts as wrong."""


class VqaTask:
    """Questions in the format of VQAv2. Without annotations nothing is scored."""

    sample_name, id_key, answer_key = "question", "question_id", "answer"

    def __init__(
        self,
        questions: Path,
        annotations: Path | None,
        images: Path,
        settings: Settings,
        image_name: str | None = None,
        limit: int | None = None,
    ) -> None:
        source = read_source(questions, "--questions")
        self._sha256 = source.sha256
        self.samples = read_questions(source, images, settings.prompt, image_name, limit)
        check_samples(self.samples, questions, self.sample_name)
        self._annotations = None
        if annotations is not None:
            ids = [sample.id for sample in self.samples]
            self._annotations = read_annotations(read_source(annotations, "--annotations"), ids)
        self._accuracies: list[float] = []

    def record(self) -> Json:
        """Returns which data it is, for the header of the answers."""
        return {"questions_sha256": self._sha256}

    def note(self, sample: Sample, answer: str | None) -> str:
        """Returns the accuracy over the rows of this run."""
        if self._annotations is None:
            return ""
        self._accuracies.append(self._accuracy(sample.id, answer))
        return f", accuracy {_percent(self._accuracies)} so far"

    def report(self, answers: Mapping[Id, str]) -> str:
        """Returns the accuracy in all, by type of answer and by type of question."""
        if self._annotations is None:
            return f"{len(answers)} of {len(self.samples)} questions answered, not scored: no --annotations"
        by_answer_type: dict[str, list[float]] = defaultdict(list)
        by_question_type: dict[str, list[float]] = defaultdict(list)
        for sample in self.samples:
            accuracy = self._accuracy(sample.id, answers.get(sample.id))
            annotation = self._annotations[sample.id]
            by_answer_type[annotation.answer_type].append(accuracy)
            by_question_type[annotation.question_type].append(accuracy)
        everything = [accuracy for group in by_answer_type.values() for accuracy in group]
        lines = [
            _row("VQA accuracy", everything),
            "",
            "by answer type",
            *(_row(f"  {name}", group) for name, group in sorted(by_answer_type.items())),
            "",
            "by question type",
            *(_row(f"  {name}", group) for name, group in sorted(by_question_type.items())),
        ]
        return "\n".join(lines)

    def _accuracy(self, question_id: Id, answer: str | None) -> float:
        return 0.0 if answer is None else vqa_accuracy(answer, self._annotations[question_id].answers)


class CaptionTask:
    """Images with captions, in the format of COCO."""

    sample_name, id_key, answer_key = "image", "image_id", "caption"

    def __init__(
        self, annotations: Path, images: Path, settings: Settings, tokenizer: str, limit: int | None = None
    ) -> None:
        source = read_source(annotations, "--annotations")
        self._sha256 = source.sha256
        self._tokenizer = tokenizer
        self.samples = read_captioned(source, images, settings.template, limit)
        check_samples(self.samples, annotations, self.sample_name)
        self._references = read_references(source, [sample.id for sample in self.samples])

    def record(self) -> Json:
        """Returns which data it is, for the header of the answers."""
        return {"annotations_sha256": self._sha256}

    def note(self, sample: Sample, answer: str | None) -> str:
        """Returns nothing: the scores weigh words by all captions."""
        return ""

    def report(self, answers: Mapping[Id, str]) -> str:
        """Returns CIDEr, BLEU and ROUGE-L, times 100."""
        captions = {sample.id: answers.get(sample.id, "") for sample in self.samples}
        scores = caption_scores(captions, self._references, TOKENIZERS[self._tokenizer])
        lines = [f"{name:<10}{value:8.2f}" for name, value in scores.items()]
        return "\n".join([*lines, "", f"{len(captions)} images, words split by the tokenizer {self._tokenizer}"])


def _percent(accuracies: Iterable[float]) -> str:
    values = list(accuracies)
    return f"{100 * sum(values) / len(values):.2f} %"


def _row(name: str, accuracies: list[float]) -> str:
    return f"{name:<28}{_percent(accuracies):>9}  of {len(accuracies)}"
