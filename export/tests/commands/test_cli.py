"""The command line, as a user meets it: exit codes, one clear line, no torch where it is not needed."""

from __future__ import annotations

import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blip2_export import cli

if TYPE_CHECKING:
    import argparse

EXPORT = Path(__file__).parents[2]


def test_export_needs_neither_torch_nor_transformers(checkpoint: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "b")
    code = (
        "import sys; from blip2_export.cli import main;"
        f"assert main(['export', '--checkpoint', {str(checkpoint)!r}, '--output', {output!r}]) == 0;"
        "assert not {'torch', 'transformers', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=EXPORT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "decoder int8" in done.stderr


def test_a_fatal_error_is_exit_code_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--checkpoint", str(tmp_path / "nowhere"), "--output", str(tmp_path / "b")]
    assert cli.main(arguments) == 2
    expected = f"blip2_export export: {tmp_path / 'nowhere'}: no such folder; --checkpoint names a folder with"
    assert capsys.readouterr().err == f"{expected} config.json\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["export"],
        ["export", "--checkpoint", "a", "--output", "b", "--precision", "int3"],
        ["export", "--checkpoint", "a", "--output", "b", "--fast"],
        ["verify", "--checkpoint", "a", "--bundle", "b", "--golden", "-1"],
    ],
)
def test_a_usage_error_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["export", "verify"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"python -m blip2_export {command} --checkpoint" in capsys.readouterr().out


def test_the_commands_of_shapes_bring_their_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("blip2_export.commands.train_shapes", "Trains.")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--output", type=Path, required=True)
        parser.add_argument("--steps", type=int)

    def run(options: argparse.Namespace) -> int:
        assert (options.output, options.steps) == (Path("there"), 7)
        return 5

    module.add_arguments, module.run = add_arguments, run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "_need_reference", lambda: None)
    assert cli.main(["train-shapes", "--output", "there", "--steps", "7"]) == 5


def test_verify_without_torch_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["verify", "--checkpoint", "a", "--bundle", "b"]) == 2
    assert "pip install 'blip2-export[reference]'" in capsys.readouterr().err


def run_export(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blip2_export", "export", *arguments]
    return subprocess.run(command, cwd=EXPORT, capture_output=True, text=True, check=False)


def test_an_output_that_cannot_be_written_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_export("--checkpoint", str(checkpoint), "--output", str(tmp_path / "file" / "bundle"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("blip2_export export: ")
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_export_leaves_nothing_behind(checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The graph of the encoder waits for the signal, so that it comes while the bundle is half written."""
    code = (
        "import signal, sys, time; from blip2_export import cli; from blip2_export.bundle import writer;"
        # A shell without a terminal starts background jobs deaf to this signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "writer.stage_graph = lambda *_, **__: (print('writing', flush=True), time.sleep(60));"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "bundle")]
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, cwd=EXPORT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert list(tmp_path.iterdir()) != []
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "blip2_export export: interrupted"
    assert list(tmp_path.iterdir()) == []
