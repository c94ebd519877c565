"""A set of 12 questions on 4 images, with the answers of ten annotators each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from score_server import ScoreServer


Json = dict[str, Any]
QUESTIONS = 12


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def prompt(number: int) -> str:
    return f"Question: What is {number}? Answer:"


def lines(tmp_path: Path) -> list[Json]:
    return [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]


def vqa_command(folder: Path, server: ScoreServer) -> list[str]:
    """The command line of a set of 12 questions on 4 images; the server knows the right answers."""
    images = folder / "images"
    images.mkdir()
    questions, annotations = [], []
    for number in range(QUESTIONS):
        image_id, question = number // 3, f"What is {number}?"
        (images / f"COCO_val2014_{image_id:012}.jpg").write_bytes(b"picture %d" % image_id)
        answer = "yes" if number % 2 else f"thing {number}"
        questions.append({"question_id": 100 + number, "image_id": image_id, "question": question})
        annotations.append(
            {
                "question_id": 100 + number,
                "question_type": "what is",
                "answer_type": "yes/no" if number % 2 else "other",
                "answers": [{"answer": answer, "answer_id": n} for n in range(10)],
            }
        )
        server.answers[prompt(number)] = answer
    paths = (
        write(folder / "questions.json", {"data_subtype": "val2014", "questions": questions}),
        write(folder / "annotations.json", {"annotations": annotations[::-1]}),
    )
    return [
        *("evaluate", "--task", "vqa", "--url", server.url, "--questions", str(paths[0])),
        *("--annotations", str(paths[1]), "--images", str(images), "--output", str(folder / "answers.jsonl")),
    ]
