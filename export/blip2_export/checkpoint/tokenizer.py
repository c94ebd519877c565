"""Makes the bundle's tokenizer.json: copies the checkpoint's, or builds it from vocab.json and merges.txt.

Also encodes prompts for the whole package: special strings in a text are plain text, and the beginning-of-text
id comes first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from blip2_export.errors import ExportError

if TYPE_CHECKING:
    from blip2_export.checkpoint.reader import Checkpoint

Json = dict[str, Any]
PAD, END, IMAGE = "<pad>", "</s>", "<image>"


def tokenizer_bytes(checkpoint: Checkpoint) -> bytes:
    """Returns the content of the bundle's tokenizer.json, after the `tokenizers` library has accepted it."""
    if checkpoint.has("tokenizer.json"):
        content = checkpoint.path("tokenizer.json").read_bytes()
    elif checkpoint.has("vocab.json") and checkpoint.has("merges.txt"):
        content = json.dumps(_from_vocabulary(checkpoint), ensure_ascii=False).encode()
    else:
        raise ExportError(f"{checkpoint.folder}: neither tokenizer.json nor vocab.json with merges.txt found; add them")
    tokenizer = parse_tokenizer(content)
    largest = max(tokenizer.get_vocab().values(), default=0)
    vocab_size = checkpoint.config.text.vocab_size
    if largest >= vocab_size:
        raise ExportError(f"tokenizer.json: token id {largest} does not fit a vocab_size of {vocab_size}")
    return content


def parse_tokenizer(content: bytes) -> Tokenizer:
    """Returns a tokenizer that treats special strings in a text as plain text."""
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing more specific
        raise ExportError(f"tokenizer.json: not readable by the tokenizers library ({error})") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, bos_token_id: int, text: str) -> list[int]:
    """Returns the ids after the image positions: the beginning-of-text id and the ids of the text."""
    return [bos_token_id, *tokenizer.encode(text, add_special_tokens=False).ids]


def _from_vocabulary(checkpoint: Checkpoint) -> Json:
    vocab: dict[str, int] = checkpoint.read_json("vocab.json")
    lines = checkpoint.path("merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    added = [_added(PAD, vocab[PAD], normalized=True), _added(END, vocab[END], normalized=True)]
    image = checkpoint.config.image_token_id
    if image is not None:
        added.append(_added(IMAGE, image, normalized=False))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": _template(vocab[END]),
        "decoder": byte_level,
        "model": _bpe(vocab, merges),
    }


def _added(token: str, number: int, *, normalized: bool) -> Json:
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": True,
    }
    return {"id": number, "content": token, **flags}


def _template(end_id: int) -> Json:
    """Returns the template that begins every text with OPT's end token."""
    bos = {"SpecialToken": {"id": END, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, bos, second],
        "special_tokens": {END: {"id": END, "ids": [end_id], "tokens": [END]}},
    }


def _bpe(vocab: dict[str, int], merges: list[list[str]]) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }
