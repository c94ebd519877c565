"""A running server, and the command line for a set of questions."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from question_set import vqa_command
from score_server import ScoreServer

from blip2_export.evaluation import client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScoreServer]:
    monkeypatch.setattr(client, "WAITS_S", (0.01, 0.01, 0.01))
    server = ScoreServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def vqa(tmp_path: Path, server: ScoreServer) -> list[str]:
    """The command line for the set of questions; the server knows the right answers."""
    return vqa_command(tmp_path, server)
