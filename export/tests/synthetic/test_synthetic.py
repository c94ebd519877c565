"""Synthetic checkpoints: layout, files, reproducibility, what is refused, and that the model behaves like one."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import tiny_checkpoint
from safetensors import safe_open

from blip2_export import cli
from blip2_export.bundle.writer import ExportOptions, export
from blip2_export.checkpoint.config import parse_config
from blip2_export.checkpoint.reader import EMBED_TOKENS, INDEX, Checkpoint
from blip2_export.checkpoint.safetensors_file import STORED_TYPES
from blip2_export.checkpoint.tensors import stage_of, tensor_shapes
from blip2_export.checkpoint.tokenizer import parse_tokenizer, prompt_ids, tokenizer_bytes
from blip2_export.errors import ExportError
from blip2_export.synthetic import checkpoint as synthetic
from blip2_export.synthetic.checkpoint import BLIP2_OPT_2_7B, SyntheticOptions, make_checkpoint
from blip2_export.synthetic.tokenizer import tokenizer_files
from blip2_export.synthetic.weights import PIECE_VALUES, SyntheticWeights
from blip2_export.verification.sample_images import PROMPTS, save_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blip2_export.checkpoint.tensors import Shape

Json = dict[str, Any]

REAL = parse_config(BLIP2_OPT_2_7B)
TRAINED = Path(__file__).parents[3] / "onnx" / "checkpoint"


def like(folder: Path, document: Json | None = None) -> Path:
    """A config.json; the default is the tiny one, with a vocabulary that holds a synthetic tokenizer."""
    path = folder / "like.json"
    path.write_text(json.dumps(document or tiny_checkpoint.config()))
    return path


def make(folder: Path, name: str = "made", **options: Any) -> Path:  # noqa: ANN401  of SyntheticOptions
    output = folder / name
    options.setdefault("like", folder / "like.json")
    if not options["like"].exists():
        like(folder)
    make_checkpoint(SyntheticOptions(output, **options))
    return output


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.tensor(name, shape) for name, shape in tensor_shapes(checkpoint.config).items()}


def whole(weights: SyntheticWeights, name: str, shape: Shape) -> np.ndarray:
    return np.concatenate([piece().reshape(-1) for piece in weights.pieces(name, shape)]).reshape(shape)


# Layout


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "enable_bias", True),
        ("text_config", "enable_bias", False),
        ("vision_config", "qkv_bias", False),
        ("qformer_config", "cross_attention_frequency", 3),
    ],
)
@pytest.mark.reference
def test_the_layout_is_that_of_transformers_in_its_order(part: str, key: str, value: object) -> None:
    import torch
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    document = tiny_checkpoint.config()
    document[part][key] = value
    with torch.device("meta"):
        state = Blip2ForConditionalGeneration(Blip2Config(**document)).state_dict()
    expected = [(name, tuple(values.shape)) for name, values in state.items() if "lm_head" not in name]
    assert list(tensor_shapes(parse_config(document)).items()) == expected


def test_the_layout_is_that_of_the_checkpoints_at_hand() -> None:
    tiny = {name: values.shape for name, values in tiny_checkpoint.tensors(tiny_checkpoint.CONFIG).items()}
    assert tensor_shapes(parse_config(tiny_checkpoint.config())) == tiny
    with safe_open(TRAINED / "model.safetensors", "np") as weights:
        trained = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    assert tensor_shapes(Checkpoint(TRAINED).config) == trained


def test_the_default_has_the_published_dimensions() -> None:
    shapes = tensor_shapes(REAL)
    assert sum(map(math.prod, shapes.values())) == 3_744_761_856
    assert shapes["vision_model.encoder.layers.38.self_attn.qkv.weight"] == (4224, 1408)
    assert shapes["vision_model.embeddings.position_embedding"] == (1, 257, 1408)
    assert shapes["qformer.encoder.layer.10.crossattention.attention.key.weight"] == (768, 1408)
    assert "qformer.encoder.layer.11.crossattention.attention.key.weight" not in shapes
    assert shapes["language_model.model.decoder.layers.31.fc1.weight"] == (10240, 2560)
    assert shapes["language_model.model.decoder.embed_positions.weight"] == (2050, 2560)
    assert shapes[EMBED_TOKENS] == (50304, 2560)
    assert (REAL.image_token_id, REAL.text.eos_token_id, REAL.text.bos_token_id) == (50265, 50118, 2)


def test_every_tensor_belongs_to_a_stage() -> None:
    assert stage_of("query_tokens") == stage_of("language_projection.bias") == "qformer"
    stages = {name.partition(".")[0]: stage_of(name) for name in tensor_shapes(REAL)}
    assert stages == {
        "query_tokens": "qformer",
        "vision_model": "vision_encoder",
        "qformer": "qformer",
        "language_projection": "qformer",
        "language_model": "decoder",
    }


# Files


def test_a_made_checkpoint_can_be_exported(tmp_path: Path) -> None:
    output = make(tmp_path)
    assert json.loads((output / "config.json").read_text()) == tiny_checkpoint.CONFIG
    export(ExportOptions(output, tmp_path / "bundle", precision="fp32"))
    assert {path.name for path in tmp_path.iterdir()} == {"like.json", "made", "bundle"}


def test_the_files_hold_what_the_seed_gives(tmp_path: Path) -> None:
    weights = SyntheticWeights(parse_config(tiny_checkpoint.config()), 3)
    for dtype, stored in STORED_TYPES.items():
        found = read_tensors(make(tmp_path, dtype, dtype=dtype, seed=3))
        for name, values in found.items():
            expected = whole(weights, name, values.shape).astype(stored.numpy).astype(np.float32)
            np.testing.assert_array_equal(values, expected, name)
    document = json.loads((tmp_path / "bfloat16" / INDEX).read_text())
    assert document["metadata"]["total_size"] == 2 * sum(values.size for values in found.values())
    with safe_open(tmp_path / "bfloat16" / "model-00001-of-00001.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("query_tokens").get_dtype() == "BF16"


def test_the_shard_size_changes_the_files_and_not_the_tensors(tmp_path: Path) -> None:
    one = read_tensors(make(tmp_path, "one"))
    output = make(tmp_path, "many", shard_bytes=10_000)
    many = read_tensors(output)
    assert all(np.array_equal(one[name], many[name]) for name in one)
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 5
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    for path in files:
        header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
        with safe_open(path, "np") as file:
            assert path.stat().st_size - 8 - header_bytes <= 10_000 or len(file.keys()) == 1
        assert header_bytes % 8 == 0


def test_the_seed_decides_every_tensor(tmp_path: Path) -> None:
    first, again, other = (
        read_tensors(make(tmp_path, name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for name, values in first.items():
        assert np.array_equal(values, again[name]), name
        assert not np.array_equal(values, other[name]), name
    assert len({values.tobytes() for values in first.values()}) == len(first)


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> str:
        assert len(list(tmp_path.iterdir())) == 2, "the unfinished folder beside like.json"
        if name.startswith("language_model"):
            raise OSError(28, "No space left on device")
        return stage_of(name)

    monkeypatch.setattr(synthetic, "stage_of", fail)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["like.json"]


# Weights


def test_pieces_are_bounded_and_cover_the_tensor() -> None:
    shape = (3000, 1000)
    pieces = list(SyntheticWeights(REAL, 0).pieces("language_projection.weight", shape))
    made = [piece() for piece in reversed(pieces)]
    assert len(made) == 3
    assert max(values.size for values in made) <= PIECE_VALUES
    assert sum(values.size for values in made) == math.prod(shape)


def test_rows_behind_an_activation_sum_to_zero() -> None:
    weights, shapes = SyntheticWeights(REAL, 0), tensor_shapes(REAL)
    behind = [name for name in shapes if re.search(r"\.(fc2|output_query\.dense)\.weight$", name)]
    assert len(behind) == 39 + 12 + 32
    for name in behind[::9]:
        rows = next(weights.pieces(name, shapes[name]))()
        assert np.abs(rows.mean(axis=1)).max() < 1e-6 * rows.std(), name


def test_norms_have_outliers_and_a_mean_square_of_one() -> None:
    weights, shapes = SyntheticWeights(REAL, 0), tensor_shapes(REAL)
    for name in ("vision_model.encoder.layers.7.layer_norm1", "language_model.model.decoder.layers.3.final_layer_norm"):
        weight = whole(weights, f"{name}.weight", shapes[f"{name}.weight"])
        large = weight / np.median(weight) > 4
        assert large.sum() == len(weight) // 256
        assert (weight > 0).all()
        assert np.mean(weight**2) == pytest.approx(1, rel=1e-5)
    last = whole(weights, "language_model.model.decoder.final_layer_norm.weight", (2560,))
    assert 0.4 < np.mean(last < 0) < 0.6


def test_biases_are_small_and_those_of_the_encoder_s_keys_zero() -> None:
    bias = whole(SyntheticWeights(REAL, 0), "vision_model.encoder.layers.0.self_attn.qkv.bias", (3 * 1408,))
    query, key, value = np.split(bias, 3)
    assert not key.any()
    assert 0.05 < value.std() < query.std() < 0.3


# Tokenizer


def tokenizer_of(folder: Path) -> Any:  # noqa: ANN401  tokenizers.Tokenizer
    return parse_tokenizer(tokenizer_bytes(Checkpoint(folder)))


@pytest.mark.parametrize("text", ["", "Question: what color is the star? Answer:", " é\n日本 <image></s>"])
def test_the_made_up_tokenizer_encodes_every_text(tmp_path: Path, text: str) -> None:
    document = tiny_checkpoint.config()
    document["text_config"] |= {"vocab_size": 2000, "eos_token_id": 1437}
    document["image_token_index"] = 1800
    tokenizer = tokenizer_of(make(tmp_path, like=like(tmp_path, document)))
    ids = prompt_ids(tokenizer, 2, text)
    assert not {1, 2, 1800} & set(ids[1:])
    assert tokenizer.decode(ids) == text
    assert len(ids) < 1 + 0.7 * len(text.encode()) or len(text) < 20
    assert tokenizer.token_to_id("<image>") == 1800
    assert tokenizer.decode([1437]) == "\n"
    assert all(tokenizer.id_to_token(number) for number in range(1801))
    assert tokenizer.decode([1801, 1999, 1800]) == ""


def test_the_special_tokens_of_the_default_have_the_published_ids() -> None:
    vocab = json.loads(tokenizer_files(REAL)["vocab.json"])
    special = [vocab[token] for token in ("<s>", "<pad>", "</s>", "<unk>", "Ċ", "<image>")]
    assert special == [0, 1, 2, 3, 50118, 50265]
    assert sorted(vocab.values()) == list(range(50266))


def test_every_id_has_a_token_where_there_is_none_for_images() -> None:
    document = tiny_checkpoint.config()
    del document["image_token_index"]
    vocab = json.loads(tokenizer_files(parse_config(document))["vocab.json"])
    assert sorted(vocab.values()) == list(range(document["text_config"]["vocab_size"]))


def test_a_tokenizer_is_copied_byte_by_byte(tmp_path: Path) -> None:
    output = make(tmp_path, like=TRAINED / "config.json", tokenizer=TRAINED)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        assert (output / name).read_bytes() == (TRAINED / name).read_bytes()


@pytest.mark.parametrize("present", [(), ("vocab.json",), ("merges.txt",)])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, present: tuple[str, ...]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in present:
        shutil.copy(TRAINED / name, source)
    with pytest.raises(ExportError, match=r"source: neither tokenizer\.json nor vocab\.json"):
        make(tmp_path, tokenizer=source)


def test_a_tokenizer_that_does_not_fit_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="vocab_size"):
        make(tmp_path, tokenizer=TRAINED)
    assert [path.name for path in tmp_path.iterdir()] == ["like.json"]


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path: Path) -> None:
    document = tiny_checkpoint.config()
    document["text_config"] |= {"vocab_size": 100, "eos_token_id": 5}
    document["image_token_index"] = 99
    with pytest.raises(ExportError, match="tokenizer of bytes needs"):
        make(tmp_path, like=like(tmp_path, document))


# The command


def test_the_command_passes_its_arguments_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path / "cli"), "--like", str(like(tmp_path)), "--seed", "5"]
    assert cli.main(["make-checkpoint", *arguments, "--dtype", "float32", "--shard-size", "1MB"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "decoder" in printed.err
    assert printed.err.splitlines()[-1].startswith(f"blip2_export: wrote {tmp_path / 'cli'} (")
    direct = read_tensors(make(tmp_path, seed=5, dtype="float32"))
    assert all(np.array_equal(values, direct[name]) for name, values in read_tensors(tmp_path / "cli").items())


def _occupied(folder: Path) -> list[str]:
    (folder / "made").mkdir()
    (folder / "made" / "file").write_text("")
    return []


def _unwritable(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["--output", str(folder / "file" / "made")]


def _not_json(folder: Path) -> list[str]:
    (folder / "like.json").write_text("{")
    return []


def _other_model(folder: Path) -> list[str]:
    like(folder, {"model_type": "llava"})
    return []


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_occupied, "folder is not empty"),
        (_unwritable, "file"),
        (_not_json, "not valid JSON"),
        (_other_model, "model_type is 'llava'"),
        (lambda _: ["--like", "nowhere.json"], "nowhere.json: No such file"),
        (lambda _: ["--dtype", "int8"], "--dtype int8: must be one of float32, float16, bfloat16"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    prepare: Callable[[Path], list[str]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", str(tmp_path / "made"), "--like", str(like(tmp_path)), *prepare(tmp_path)]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["make-checkpoint", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("blip2_export make-checkpoint: ")
    assert message in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_too_small_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(7_000_000_000))
    with pytest.raises(ExportError, match=r"takes 7\.56 GB, 7\.00 GB are free"):
        make_checkpoint(SyntheticOptions(tmp_path / "real"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["5", "GB", "0GB", "-1GB", "5TB", "1.5GB"])
def test_a_shard_size_without_meaning_is_a_usage_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["make-checkpoint", "--output", str(tmp_path / "made"), f"--shard-size={text}"])
    assert ended.value.code == 2


# The model

SMALL: Json = {
    "model_type": "blip-2",
    "num_query_tokens": 16,
    "image_token_index": 1900,
    "vision_config": {
        "model_type": "blip_2_vision_model",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 20,
        "num_attention_heads": 4,
        "image_size": 112,
    },
    "qformer_config": {
        "model_type": "blip_2_qformer",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "encoder_hidden_size": 192,
    },
    "text_config": {
        "model_type": "opt",
        "hidden_size": 256,
        "ffn_dim": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 256,
        "vocab_size": 2000,
        "max_position_embeddings": 128,
        "eos_token_id": 1437,
    },
}


def likeness(states: np.ndarray) -> float:
    """Mean cosine between different positions of [1, positions, width]."""
    unit = states[0] / np.linalg.norm(states[0], axis=-1, keepdims=True)
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another at every small step take minutes on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.reference
@pytest.mark.usefixtures("one_thread")
def test_activations_stay_in_range_and_answers_follow_image_and_prompt(tmp_path: Path) -> None:
    from blip2_export.verification.reference import Reference

    folder = make(tmp_path, like=like(tmp_path, SMALL))
    reference, tokenizer = Reference(folder), tokenizer_of(folder)
    pixels = [reference.pixel_values(path) for path in save_images(tmp_path, 2)]

    residual = reference.vision_layers(pixels[0]).std(axis=(1, 2))
    assert 4 < residual[-1] / residual[0] < 12
    embeds = [reference.image_embeds(values) for values in pixels]
    assert likeness(embeds[0]) < 0.8
    queries = [reference.query(values) for values in embeds]
    assert likeness(queries[0][0]) < 0.9

    prompts = [prompt_ids(tokenizer, 2, text) for text in PROMPTS[1:3]]
    answers = [reference.greedy(prefix, ids, 12) for _, prefix in queries for ids in prompts]
    assert len({tuple(answer) for answer in answers}) == len(answers)
    assert all(len(set(answer)) > len(answer) / 2 for answer in answers)
    residual = reference.decoder_layers(queries[0][1], prompts[0], answers[0]).std(axis=(1, 2))
    assert 3 < residual[-1] / residual[0] < 9

    logits = np.concatenate([reference.teacher_forced(prefix, prompts[0], answers[0]) for _, prefix in queries])
    assert 2 < logits.std(axis=-1).mean() < 4.5
    second, best = np.sort(logits, axis=-1)[:, -2:].T
    assert 0.2 < np.median(best - second) < 2
    last = [prompts[0][-1], *answers[0][:-1]] * len(queries)
    of_last = logits[np.arange(len(last)), last] - logits.mean(axis=-1)
    assert abs(of_last.mean()) < logits.std(), "the last token must be about as likely as any other"
