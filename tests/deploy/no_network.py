"""Keeps the tests of deployments on this machine: their SDKs would talk to their clouds."""

from __future__ import annotations

import ipaddress
import socket

import pytest


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True
    try:
        return ipaddress.ip_address(str(address[0])).is_loopback
    except ValueError:
        return address[0] == "localhost"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that connects to another machine. Import it into a conftest."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if not _is_local(address):
            raise AssertionError(f"a connection to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
