"""Where the pods may connect to: the hosts of pictures, and nothing that is the cluster's or the cloud's own."""

from __future__ import annotations

from copy import deepcopy
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from rendering import of_kind, render

if TYPE_CHECKING:
    from rendering import Manifest


def reaches(policy: Manifest, address: str, port: int) -> bool:
    """Whether a rule for addresses lets a connection out."""
    wanted = ip_address(address)
    for rule in policy["spec"]["egress"]:
        if port not in [each["port"] for each in rule["ports"]]:
            continue
        for block in (each["ipBlock"] for each in rule["to"] if "ipBlock" in each):
            if wanted in ip_network(block["cidr"]) and not any(
                wanted in ip_network(each) for each in block.get("except", [])
            ):
                return True
    return False


@pytest.fixture(scope="module")
def policy() -> Manifest:
    """Of the base, which every variant has."""
    (policy,) = of_kind(render("base"), "NetworkPolicy")
    return policy


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.20.10",
        "172.16.0.1",
        "192.168.1.1",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "fd00:ec2::254",
        "fe80::1",
    ],
)
def test_no_private_address_and_no_metadata_service_is_reached(policy: Manifest, address: str) -> None:
    """On the ports that pictures come from."""
    assert not reaches(policy, address, 443)
    assert not reaches(policy, address, 80)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111"])
def test_public_hosts_are_reached_on_the_ports_of_the_web_alone(policy: Manifest, address: str) -> None:
    """For images by URL."""
    assert reaches(policy, address, 443)
    assert not reaches(policy, address, 22)


def test_a_forgotten_exception_is_caught(policy: Manifest) -> None:
    """What the first test relies on."""
    leaky = deepcopy(policy)
    leaky["spec"]["egress"][1]["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16")
    assert reaches(leaky, "169.254.169.254", 80)
