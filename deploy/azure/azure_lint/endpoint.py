"""An online endpoint, or a batch endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure_lint import names

if TYPE_CHECKING:
    from azure_lint.section import Section

# Microsoft's limit for mirrored traffic.
_MOST_MIRRORED = 50


def check_online(endpoint: Section) -> None:
    """Name, authentication, traffic."""
    names.check_endpoint_name(endpoint, "name")
    endpoint.choice("auth_mode", ("key", "aml_token", "aad_token"))
    traffic = _shares(endpoint, "traffic", 100)
    if traffic is not None and sum(traffic.values()) not in (0, 100):
        endpoint.report.error(
            endpoint.where("traffic"), endpoint.get("traffic"), f"must sum up to 100 or 0, not {sum(traffic.values())}"
        )
    mirrored = _shares(endpoint, "mirror_traffic", _MOST_MIRRORED)
    if mirrored is not None and len(mirrored) > 1:
        endpoint.report.error(
            endpoint.where("mirror_traffic"), endpoint.get("mirror_traffic"), "must name one deployment alone"
        )
    for name in mirrored or {}:
        if traffic and traffic.get(name):
            endpoint.report.error(
                endpoint.where(f"mirror_traffic.{name}"),
                mirrored,
                "must name a deployment without a share of the traffic",
            )


def check_batch(endpoint: Section) -> None:
    """Name and default deployment."""
    names.check_endpoint_name(endpoint, "name")
    endpoint.choice("auth_mode", ("aad_token",))
    defaults = endpoint.section("defaults")
    if defaults is not None and defaults.has("deployment_name"):
        names.check_endpoint_name(defaults, "deployment_name")


def _shares(endpoint: Section, key: str, most: int) -> dict[str, int] | None:
    shares = endpoint.section(key)
    if shares is None:
        return None
    found: dict[str, int] = {}
    for name in shares.mapping:
        if not isinstance(name, str) or not names.is_endpoint_name(name):
            endpoint.report.error(shares.where(str(name)), name, "must be the name of a deployment")
            continue
        share = shares.integer(name, 0, most, "percent")
        if share is None:
            return None
        found[name] = share
    return found
