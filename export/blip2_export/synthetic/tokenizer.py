"""Makes a byte-level BPE tokenizer for synthetic checkpoints: vocab.json and merges.txt, as OPT has them.

The special ids keep their roles: padding, `</s>` in front of every text, the newline that ends an answer, and
`<image>`. The others are the 256 bytes, by which every text can be encoded, pairs of letters, and pairs of pairs.
Ids above that of `<image>` have no token, as in the published checkpoint.
"""

from __future__ import annotations

import json
from itertools import islice, product
from string import ascii_lowercase
from typing import TYPE_CHECKING

from tokenizers import pre_tokenizers

from blip2_export.checkpoint.tokenizer import END, IMAGE, PAD
from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blip2_export.checkpoint.config import Blip2Config

SPACE, NEWLINE = "Ġ", "Ċ"  # as byte-level vocabularies write them


def tokenizer_files(config: Blip2Config) -> dict[str, bytes]:
    """Returns the content of vocab.json and of merges.txt.

    Raises:
        ExportError: the vocabulary is smaller than the tokens that every tokenizer needs.
    """
    ids = {config.text.eos_token_id: NEWLINE, config.text.pad_token_id: PAD, config.text.bos_token_id: END}
    end = config.text.vocab_size
    if config.image_token_id is not None:
        ids[config.image_token_id] = IMAGE
        end = config.image_token_id
    free = [number for number in range(end) if number not in ids]
    needed = [token for token in _indispensable() if token not in ids.values()]
    if len(free) < len(needed):
        raise ExportError(
            f"config.json: {len(free)} token ids are free, a tokenizer of bytes needs {len(needed)}; "
            "give another config.json, or a tokenizer that fits with --tokenizer"
        )
    merges = list(islice(_merges(), len(free) - len(needed)))
    ids.update(zip(free, [*needed, *map("".join, merges)], strict=False))
    vocab = {ids[number]: number for number in sorted(ids)}
    lines = ["#version: 0.2", *map(" ".join, merges)]
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "merges.txt": "\n".join([*lines, ""]).encode(),
    }


def _indispensable() -> list[str]:
    return ["<s>", PAD, END, "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]


def _merges() -> Iterator[tuple[str, str]]:
    """Yields pairs of tokens to merge: a letter or a space with a letter, then such a pair with two letters."""
    letters = list(product(ascii_lowercase, repeat=2))
    starts = [*product(SPACE, ascii_lowercase), *letters]
    yield from starts
    yield from product(map("".join, starts), map("".join, letters))
