"""What `/metrics` tells: names, and the labels of each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from service import get

# Of Prometheus itself: it adds job and instance to every series, and makes these two metrics.
ADDED_LABELS = {"job", "instance"}
OWN = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}


@dataclass(frozen=True)
class Metrics:
    """Samples by name."""

    labels: dict[str, set[str]]

    @classmethod
    def read(cls, url: str) -> Metrics:
        """As a running service tells them."""
        status, text = get(url)
        assert status == 200
        return cls.of(text)

    @classmethod
    def of(cls, text: str) -> Metrics:
        """From the text format."""
        labels: dict[str, set[str]] = {}
        for line in text.splitlines():
            if found := re.match(r"(\w+)(?:\{(.*)\})? ", line):
                labels.setdefault(found[1], set()).update(re.findall(r'(\w+)="', found[2] or ""))
        return cls(labels)

    def faults(self, name: str, labels: set[str]) -> list[str]:
        """Whether a metric is there, with these labels."""
        known = self.labels | OWN
        if name not in known:
            return [f"there is no metric {name}"]
        return [f"{name} has no label {label}" for label in sorted(labels - known[name] - ADDED_LABELS)]
