"""What the tests of the Azure files share: where things are, and no network."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
AZURE = REPOSITORY / "deploy" / "azure"
sys.path.insert(0, str(AZURE))
# Nothing here may tell anybody that it ran.
os.environ["AZURE_CORE_COLLECT_TELEMETRY"] = "0"


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True
    try:
        return ipaddress.ip_address(str(address[0])).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves this machine fails: what Azure's SDK does here, it does without Azure."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if not _is_local(address):
            raise AssertionError(f"a connection to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
