"""The service under some traffic, and Debian's Prometheus that reads it with the configuration of deploy/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from metrics import Metrics
from prometheus import Prometheus, running_prometheus
from service import Service, running
from traffic import every_kind_of_request

if TYPE_CHECKING:
    from collections.abc import Iterator

# A rate needs two readings, and a counter that is born at one shows no increase before it moves again.
ROUNDS = 3


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """A small queue, so that requests can be refused, and golden answers every second."""
    with running("--queue-rows", "4", "--golden-interval-s", "1", "--drain-delay-s", "0.001") as service:
        yield service


@pytest.fixture(scope="session")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Reads the service, which has been asked all sorts of things meanwhile."""
    with running_prometheus(service.metrics_port, tmp_path_factory.mktemp("prometheus")) as prometheus:
        for _ in range(ROUNDS):
            prometheus.wait_for_readings(2)
            every_kind_of_request(service)
        prometheus.wait_for_readings(2)
        yield prometheus


@pytest.fixture(scope="session")
def metrics(service: Service, prometheus: Prometheus) -> Metrics:
    """What the service tells after that."""
    assert prometheus.url
    return Metrics.read(service.metrics_url)
