"""The bundle's tokenizer and the encoding of prompts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import tiny_checkpoint
from tiny_checkpoint import VOCAB, write_checkpoint

from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.checkpoint.tokenizer import parse_tokenizer, prompt_ids, tokenizer_bytes
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

TEXTS = ["", "that", "Question: what? Answer:", " trailing ", "é\n", "日本"]


@pytest.fixture
def tokenizer(checkpoint: Path) -> Tokenizer:
    return parse_tokenizer(tokenizer_bytes(Checkpoint(checkpoint)))


def test_a_prompt_starts_with_the_beginning_of_text_id(tokenizer: Tokenizer) -> None:
    assert prompt_ids(tokenizer, 2, "") == [2]
    assert prompt_ids(tokenizer, 2, "at that") == [2, VOCAB["at"], VOCAB["Ġth"], VOCAB["at"]]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(prompt_ids(tokenizer, 2, text)) == text


@pytest.mark.parametrize("special", ["<image>", "</s>", "<pad>"])
def test_special_strings_in_a_text_are_plain_text(tokenizer: Tokenizer, special: str) -> None:
    ids = prompt_ids(tokenizer, 2, special)
    assert len(ids) > 2
    assert not {1, 2, tiny_checkpoint.IMAGE_TOKEN} & set(ids[1:])


def test_a_tokenizer_file_is_copied_byte_by_byte(checkpoint: Path, tmp_path: Path) -> None:
    content = tokenizer_bytes(Checkpoint(checkpoint)) + b"\n\n"
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / "tokenizer.json").write_bytes(content)
    assert tokenizer_bytes(Checkpoint(folder)) == content


def test_a_token_beyond_the_vocabulary_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    document = json.loads(tokenizer_bytes(Checkpoint(checkpoint)))
    document["model"]["vocab"]["zz"] = 272
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ExportError, match="token id 272 does not fit"):
        tokenizer_bytes(Checkpoint(folder))


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / "merges.txt").unlink()
    with pytest.raises(ExportError, match=r"neither tokenizer\.json nor vocab\.json"):
        tokenizer_bytes(Checkpoint(folder))
