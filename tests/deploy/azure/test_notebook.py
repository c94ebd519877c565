"""The notebook: no outputs in git, the cells that need no Azure run, and the others call what the real SDK has."""

from __future__ import annotations

import ast
import inspect
import json
import os
from typing import TYPE_CHECKING, Any

import docker
import nbformat
import pytest
from azure.ai.ml import MLClient
from conftest import AZURE
from nbclient import NotebookClient

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOK = AZURE / "deploy.ipynb"
IMAGE = os.environ.get("BLIP2_IMAGE", "blip2")
TAGS = {"needs-azure", "needs-docker"}
# Runs first in the kernel: whoever leaves the machine fails.
GUARD = """
import ipaddress, socket
_connect = socket.socket.connect
def _refuse(self, address):
    if isinstance(address, tuple) and address[0] != "localhost" and not ipaddress.ip_address(address[0]).is_loopback:
        raise AssertionError(f"a connection to {address}")
    _connect(self, address)
socket.socket.connect = _refuse
"""


def _notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def _tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _cells(tag: str) -> list[str]:
    return [cell.source for cell in _notebook().cells if cell.cell_type == "code" and tag in _tags(cell)]


def test_it_is_a_valid_notebook() -> None:
    nbformat.validate(_notebook())


def test_no_output_is_in_git() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, cell["id"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], cell["id"]
            assert cell["execution_count"] is None, cell["id"]


def test_tags_are_known() -> None:
    for cell in _notebook().cells:
        assert _tags(cell) <= TAGS
    assert len(_cells("needs-azure")) > 5
    assert len(_cells("needs-docker")) == 1


def _has_image() -> bool:
    try:
        docker.from_env().images.get(IMAGE)
    except docker.errors.DockerException:
        return False
    return True


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nbformat.NotebookNode:
    """All cells that can run here, run in order in a kernel of their own."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BLIP2_IMAGE", IMAGE)
    # The SDK and Jupyter keep notes under the home folder: let it be another one.
    monkeypatch.setenv("HOME", str(tmp_path))
    notebook = _notebook()
    left_out = {"needs-azure"} if _has_image() else TAGS
    if left_out == TAGS and os.environ.get("BLIP2_REQUIRE_DOCKER") == "1":
        pytest.fail(f"the image {IMAGE} is missing, or no Docker engine answers, and BLIP2_REQUIRE_DOCKER=1")
    notebook.cells = [cell for cell in notebook.cells if not _tags(cell) & left_out]
    notebook.cells.insert(0, nbformat.v4.new_code_cell(GUARD))
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(AZURE)}}).execute()
    return notebook


def _printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )


def test_the_cells_that_need_no_azure_run(executed: nbformat.NotebookNode) -> None:
    printed = _printed(executed)
    assert "myregistry.azurecr.io/blip2:1\n" in printed
    assert "'precision': 'fp32'" in printed
    assert "8 rows a request" in printed
    assert "310 s for the start" in printed
    if _has_image():
        assert '[{"text":"yellow"}]' in printed


class _Nobody:
    def get_token(self, *_scopes: str, **_options: object) -> Any:  # noqa: ANN401
        raise AssertionError("no token is needed to look at signatures")


def _calls(source: str) -> list[tuple[str, str, ast.Call]]:
    """Every `client.GROUP.METHOD(…)`."""
    return [
        (node.func.value.attr, node.func.attr, node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Attribute)
        and isinstance(node.func.value.value, ast.Name)
        and node.func.value.value.id in ("client", "local_client")
    ]


def _bind(client: MLClient, source: str) -> int:
    found = _calls(source)
    for group, method, call in found:
        signature = inspect.signature(getattr(getattr(client, group), method))
        named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        signature.bind(*([None] * len(call.args)), **named)
        # A **kwargs would take any name: only those that are written out count.
        assert set(named) <= set(signature.parameters), (group, method, named)
    return len(found)


def test_the_cells_for_azure_call_what_the_sdk_has() -> None:
    client = MLClient(_Nobody(), "subscription", "group", "workspace")
    assert sum(_bind(client, source) for source in _cells("needs-azure")) >= 12


@pytest.mark.parametrize(
    "wrong",
    ["client.online_endpoints.begin_make(x)", "client.models.create_or_update()", "client.endpoints.get('x')",
     "client.online_endpoints.invoke(endpoint_name='x', no_such='y')"],
)  # fmt: skip
def test_a_call_that_the_sdk_has_not_is_seen(wrong: str) -> None:
    client = MLClient(_Nobody(), "subscription", "group", "workspace")
    with pytest.raises((AttributeError, TypeError, AssertionError)):
        _bind(client, wrong)


def test_script_and_notebook_go_the_same_way() -> None:
    script = (AZURE / "deploy.sh").read_text()
    text = "\n".join(_cells("needs-azure"))
    for shares in ('"blue": 0, "green": 100', '"green": 0', '"blue": 100'):
        assert shares in text
    assert 'traffic --traffic "blue=0 green=100"' in script
    assert "traffic --mirror-traffic green=0" in script
