"""The linter as a command: exit codes, and no traceback whatever the file holds."""

from __future__ import annotations

import copy
import datetime
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from azure_lint import Options, lint_files
from conftest import AZURE
from test_lint_rules import GOOD

if TYPE_CHECKING:
    from pathlib import Path


def lint(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, AZURE / "lint.py", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


# Content, and what is said of it. All end with 1.
ODD = [
    (b"", "is empty"),
    (b"# nothing\n", "is empty"),
    (b"null\n", "is empty"),
    (b"---\n...\n", "is empty"),
    (b"- name: blue\n", "holds a list, not a mapping"),
    (b"blue\n", "holds a str, not a mapping"),
    (b"42\n", "holds a int, not a mapping"),
    (b"true\n", "holds a bool, not a mapping"),
    (b"2026-01-01\n", "holds a date, not a mapping"),
    (b"name: a\nname: b\n", "the key 'name' stands twice (line 2, column 1)"),
    (b"request_settings: {a: 1, a: 2}\n", "the key 'a' stands twice"),
    (b"name: a\n---\nname: b\n", "holds 2 YAML documents"),
    (b"name: [a\n", "is not YAML"),
    (b"\tname: a\n", "is not YAML"),
    (b"name: a\n b: c\n", "is not YAML"),
    (b"name: *nobody\n", "is not YAML"),
    (b"name: !!python/object:os.system {}\n", "is not YAML"),
    (b"? [a, b]\n: c\n", "is not YAML"),
    (b"? {a: b}\n: c\n", "is not YAML"),
    (b"name: \xff\xfe\n", "is not UTF-8"),
    (b"name: \x00\n", "is not YAML"),
    (b"name: 2026-99-99\n", "holds a value that YAML cannot read"),
    (b"[" * 20000, "is not YAML"),
    (b"name: " + b"{a: " * 5000 + b"}" * 5000, "is not YAML"),
    (b"name: blip2-vqa\n", "$schema is missing: say what this is, or give --kind"),
    (b"$schema: https://example.com/x.json\nname: blip2-vqa\n", "$schema is 'https://example.com/x.json': must be"),
    (b"$schema: [1]\nname: x\n", "$schema"),
    (b"1: 2\n", "$schema is missing"),
]


@pytest.mark.parametrize(("content", "words"), ODD, ids=[str(row[0][:30]) for row in ODD])
def test_an_odd_file_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "odd.yml"
    path.write_bytes(content)
    done = lint(path)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{path}: error: ")
    assert words in done.stdout


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "marked.yml"
    path.write_bytes(b"\xef\xbb\xbfname: blip2-vqa\nauth_mode: key\n")
    assert lint(path).returncode == 0


def test_references_that_multiply_are_not_printed_in_full(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)
    ]
    path = tmp_path / "bomb.yml"
    path.write_text(
        "\n".join([*lines, "endpoint_name: *a8", "instance_type: *a8", "name: &n [*n]", "model: {path: *a8}"])
    )
    done = lint(path)
    assert done.returncode == 1
    assert len(done.stdout) < 10_000


VALUES: list[object] = [
    None, "", "  ", "x", "azureml:", "\u0000", "a" * 5000, True, False, 0, -1, 1, 3.5, float("nan"), float("inf"),
    10**40, datetime.date(2026, 1, 1), [], [1], {}, {"a": 1}, {1: 2}, {None: None}, {"path": None}, {"path": 7}, [[]],
]  # fmt: skip


def _fields(mapping: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in mapping.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += _fields(value, (*above, key))
    return found


@pytest.mark.parametrize("kind", GOOD)
def test_no_value_of_any_field_crashes(tmp_path: Path, kind: str) -> None:
    good = copy.deepcopy(GOOD[kind])
    if kind == "online-deployment":
        good |= {
            "tags": {"target": "cpu", "precision": "int8"},
            "model": {"name": "m", "path": "."},
            "environment": GOOD["environment"],
        }
        good |= {"code_configuration": {"code": ".", "scoring_script": "x"}, "model_mount_path": "/m"}
        good["environment_variables"] |= {"SERVER_PORT": "5001", "SCORING_TIMEOUT_MS": "1", "BLIP2_DRAIN_DELAY_S": "1"}
    if kind == "environment":
        good["build"] = {"path": ".", "dockerfile_path": "Dockerfile"}
    path = tmp_path / "it.yml"
    for field in _fields(good):
        for value in VALUES:
            document = copy.deepcopy(good)
            inner = document
            for name in field[:-1]:
                inner = inner[name]
            inner[field[-1]] = value
            path.write_text(yaml.safe_dump(document, allow_unicode=True))
            for given in (kind, None):
                for finding in lint_files([path], Options(kind=given, dockerfile=tmp_path / "none")):
                    assert len(str(finding)) < 1000
                    assert "\n" not in str(finding)


def test_each_kind_survives_each_document(tmp_path: Path) -> None:
    path = tmp_path / "it.yml"
    for document in GOOD.values():
        path.write_text(yaml.safe_dump(document))
        for kind in GOOD:
            lint_files([path], Options(kind=kind))


def test_a_missing_file_is_a_wrong_call(tmp_path: Path) -> None:
    done = lint(tmp_path / "none.yml")
    assert done.returncode == 2
    assert f"{tmp_path / 'none.yml'}: No such file or directory" in done.stderr


def test_a_file_without_permission_is_a_wrong_call(tmp_path: Path) -> None:
    path = tmp_path / "closed.yml"
    path.write_text("name: blue\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert lint(path).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--no-such"],
        ["--kind", "poem", "x"],
        ["--start-s", "-1", "x"],
        ["--start-s", "soon", "x"],
        ["--dockerfile", "/none", "x"],
    ],
)
def test_a_wrong_call_ends_with_2(arguments: list[str]) -> None:
    assert lint(*arguments).returncode == 2


def test_without_pyyaml_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError(name='yaml')\n")
    done = subprocess.run(
        [sys.executable, AZURE / "lint.py", "x"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "lint.py: PyYAML is missing: pip install pyyaml\n"


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    assert lint(AZURE, AZURE / "local").returncode == 0
    assert lint(tmp_path).returncode == 2


def test_warnings_fail_only_when_strict(tmp_path: Path) -> None:
    path = tmp_path / "it.yml"
    path.write_text(yaml.safe_dump({**GOOD["environment"], "image": "<acr>/blip2:1"}))
    assert lint(path).returncode == 0
    done = lint("--strict", path)
    assert done.returncode == 1
    assert "warning: image is '<acr>/blip2:1': put in the name of your registry" in done.stdout
