"""Writes data/expected.json: what transformers answers for the tiny checkpoint. Needs the extra `reference`.

python tests/record_expected.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import tiny_checkpoint

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]
EXPECTED = Path(__file__).parent / "data" / "expected.json"
PROMPTS = {"caption": [2], "question": [2, 50, 77, 261, 9, 120, 33]}
ANSWER = [17, 204, 5, 90, 61]
MAX_NEW_TOKENS = 12


def compute(folder: Path) -> dict[str, Any]:
    """The expected numbers for a checkpoint folder."""
    from blip2_export.verification.reference import Reference

    reference = Reference(folder)
    pixel_values = tiny_checkpoint.pixel_values()
    embeds = reference.image_embeds(pixel_values)
    output, prefix = reference.query(embeds)
    return {
        "reference": reference.description,
        "image_embeds": _rounded(embeds),
        "query_output": _rounded(output),
        "image_prefix": _rounded(prefix),
        "answers": {
            name: {
                "token_ids": reference.greedy(prefix, prompt, MAX_NEW_TOKENS),
                "logits": _rounded(reference.teacher_forced(prefix, prompt, ANSWER)),
            }
            for name, prompt in PROMPTS.items()
        },
    }


def _rounded(values: Any) -> list[Any]:  # noqa: ANN401  a tensor of any rank becomes nested lists
    return [_rounded(row) for row in values] if values.ndim else round(float(values), 5)


def main() -> None:
    """Records the file anew."""
    with tempfile.TemporaryDirectory() as folder:
        expected = compute(tiny_checkpoint.write_checkpoint(Path(folder) / "tiny", shards=3))
    EXPECTED.parent.mkdir(exist_ok=True)
    EXPECTED.write_text(json.dumps(expected, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
