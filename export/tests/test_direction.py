"""Folders of the exporter import in one direction, modules never in a circle, and commands only what they need.

Read off the source with `ast`: imports inside functions count, and for direction and circles those for type checkers
too. A new folder needs a line in `ALLOWED`.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from blip2_export import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PACKAGE = "blip2_export"
FOLDER = Path(__file__).resolve().parents[1] / PACKAGE

# Modules directly in the package that every folder may import; "" is the package itself, for its version.
BELOW_ALL = {"", "errors", "files", "hashing", "progress"}
# Folder -> the folders that it may import, from the bottom up.
ALLOWED: dict[str, set[str]] = {
    "checkpoint": set(),
    "graph": {"checkpoint"},
    "inference": {"graph"},
    "quantization": {"inference", "graph", "checkpoint"},
    "description": set(),
    "bundle": {"description", "quantization", "graph", "checkpoint"},
    "registration": {"bundle", "description"},
    "verification": {"bundle", "description", "inference", "graph", "checkpoint"},
    "synthetic": {"bundle", "checkpoint"},
    "evaluation": set(),
    "shapes": set(),
}
ALLOWED["commands"] = set(ALLOWED)
# The command line loads the module of a command by its name.
ALLOWED["cli"] = {"commands"}
ALLOWED["__main__"] = {"cli"}

REFERENCE = {"torch", "torchvision", "transformers"}
NUMERICS = {"numpy", "onnx", "onnxruntime", "safetensors"}
# Command -> packages that it must do without, since it also runs where they are not installed.
WITHOUT: dict[str, set[str]] = {
    "export": REFERENCE,
    "model": REFERENCE,
    "make-checkpoint": REFERENCE,
    "evaluate": REFERENCE | NUMERICS,
    "check": REFERENCE | NUMERICS,
    "register": REFERENCE | NUMERICS,
}


class Import(NamedTuple):
    """One module imported by another. `is_typing` if a type checker alone does it."""

    importer: str
    imported: str
    is_typing: bool


def sources() -> dict[str, str]:
    """The text of every module, by its dotted name."""
    found = {}
    for path in FOLDER.rglob("*.py"):
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return found


def is_package(module: str) -> bool:
    return (FOLDER.parent / module.replace(".", "/")).is_dir()


def imports(modules: Mapping[str, str]) -> list[Import]:
    return [found for name, text in modules.items() for found in imports_of(name, ast.parse(text), modules)]


def imports_of(importer: str, tree: ast.AST, modules: Mapping[str, str], is_typing: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name, is_typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(importer, node)
            for alias in node.names:
                member = f"{base}.{alias.name}"
                yield Import(importer, member if member in modules else base, is_typing)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_of(importer, node, modules, is_typing=True)
        else:
            yield from imports_of(importer, node, modules, is_typing)


def absolute(importer: str, node: ast.ImportFrom) -> str:
    """The module that a `from` names, also where it is relative."""
    if not node.level:
        return node.module or ""
    above = importer.split(".")[: -node.level + is_package(importer) or None]
    return ".".join(filter(None, [*above, node.module]))


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def folder(module: str) -> str:
    """The folder of a module, or the name of a module that lies directly in the package; "" is the package."""
    return [*module.split("."), ""][1]


def wrong_directions(found: Sequence[Import]) -> list[str]:
    """Imports between folders that the table does not have, as lines."""
    wrong = []
    for importer, imported, _ in found:
        if not is_ours(imported) or (source := folder(importer)) == (target := folder(imported)):
            continue
        allowed = ALLOWED.get(source, set()) | (set() if source in BELOW_ALL else BELOW_ALL)
        if target not in allowed:
            wrong.append(f"{importer} imports {imported}")
    return wrong


def circle(found: Sequence[Import]) -> list[str]:
    """The modules of one circle, each of which imports the one before it, or nothing."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importer, imported, _ in found:
        if is_ours(imported):
            sorter.add(importer, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        return error.args[1]
    return []


def packages_of(command: str, found: Sequence[Import]) -> set[str]:
    """The packages of others that a command can come to import."""
    todo, seen = [f"{PACKAGE}.__main__", f"{PACKAGE}.{cli.COMMANDS[command][0]}"], set[str]()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        if is_ours(module):
            todo += [imported for importer, imported, is_typing in found if importer == module and not is_typing]
            todo += [parent] if (parent := module.rpartition(".")[0]) else []
    return {module.partition(".")[0] for module in seen} - {PACKAGE} - sys.stdlib_module_names


def test_every_folder_is_in_the_table_and_none_else() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert set(ALLOWED) - {"cli", "__main__"} == folders
    assert {folder(module) for module in sources()} - set(ALLOWED) == BELOW_ALL


def test_the_table_has_no_line_that_nobody_needs() -> None:
    used = {(folder(found.importer), folder(found.imported)) for found in imports(sources()) if is_ours(found.imported)}
    used |= {("cli", "commands")}
    assert {(source, target) for source, targets in ALLOWED.items() for target in targets} <= used | {
        ("commands", target) for target in ALLOWED
    }


def test_imports_between_folders_follow_the_table() -> None:
    assert wrong_directions(imports(sources())) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(imports(sources())) == []


def test_commands_are_modules_of_the_folder_of_commands() -> None:
    modules = sources()
    assert {f"{PACKAGE}.{module}" for module, _ in cli.COMMANDS.values()} == {
        module for module in modules if module.startswith(f"{PACKAGE}.commands.")
    }


@pytest.mark.parametrize("command", WITHOUT)
def test_a_command_imports_no_package_that_it_must_do_without(command: str) -> None:
    assert packages_of(command, imports(sources())) & WITHOUT[command] == set()


def test_what_verify_imports_is_seen() -> None:
    assert packages_of("verify", imports(sources())) >= REFERENCE | NUMERICS


def with_line(module: str, line: str) -> list[Import]:
    """All imports, as if a module began with one more line."""
    modules = sources()
    return imports(modules | {f"{PACKAGE}.{module}": f"{line}\n{modules.get(f'{PACKAGE}.{module}', '')}"})


@pytest.mark.parametrize(
    ("module", "line", "imported"),
    [
        ("checkpoint.config", "from blip2_export.graph.stage import Graph", "graph.stage"),
        ("checkpoint.config", "from blip2_export.graph import stage", "graph.stage"),
        ("checkpoint.config", "from ..graph.stage import Graph", "graph.stage"),
        ("checkpoint.config", "from .. import cli", "cli"),
        ("checkpoint.config", "import blip2_export.graph.stage", "graph.stage"),
        ("checkpoint.config", "if TYPE_CHECKING:\n    from blip2_export.graph.stage import Graph", "graph.stage"),
        ("checkpoint.config", "def late():\n    from blip2_export.graph.stage import Graph", "graph.stage"),
        ("checkpoint", "from .hub import download\nfrom ..bundle import folder", "bundle.folder"),
        ("graph.linear", "from blip2_export.quantization.optimize import optimize", "quantization.optimize"),
        ("quantization.gptq", "from blip2_export.verification.metrics import cosine", "verification.metrics"),
        ("bundle.folder", "from blip2_export.verification.golden import FOLDER", "verification.golden"),
        ("evaluation.client", "from blip2_export.commands import check", "commands.check"),
        ("errors", "from blip2_export.progress import size", "progress"),
        ("progress", "from blip2_export.bundle.folder import MANIFEST", "bundle.folder"),
        ("novelty.module", "from blip2_export.graph.stage import Graph", "graph.stage"),
    ],
)
def test_an_import_against_the_table_is_named(module: str, line: str, imported: str) -> None:
    assert wrong_directions(with_line(module, line)) == [f"{PACKAGE}.{module} imports {PACKAGE}.{imported}"]


@pytest.mark.parametrize(
    ("module", "line", "others"),
    [
        ("checkpoint.config", "from blip2_export.checkpoint.reader import Checkpoint", {"checkpoint.reader"}),
        ("checkpoint.config", "from .reader import Checkpoint", {"checkpoint.reader"}),
        ("graph.groups", "def late():\n    from blip2_export.graph.linear import Linear", {"graph.linear"}),
        ("graph.groups", "if TYPE_CHECKING:\n    from blip2_export.graph.linear import Linear", {"graph.linear"}),
        ("errors", "from blip2_export.checkpoint.config import parse_config", {"checkpoint.config"}),
    ],
)
def test_a_circle_is_named(module: str, line: str, others: set[str]) -> None:
    found = set(circle(with_line(module, line)))
    assert found >= {f"{PACKAGE}.{name}" for name in {module, *others}}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("quantization.gptq", "import torch.nn"),
        ("quantization.gptq", "def late():\n    from torch import nn"),
        ("quantization", "import torch"),
        ("quantization.gptq", "from blip2_export.verification.reference import Reference"),
        ("cli", "import torch"),
    ],
)
def test_a_way_from_export_to_torch_is_found(module: str, line: str) -> None:
    assert "torch" in packages_of("export", with_line(module, line))


def test_what_type_checkers_alone_import_is_not_loaded() -> None:
    line = "if TYPE_CHECKING:\n    import torch"
    assert "torch" not in packages_of("export", with_line("quantization.gptq", line))
