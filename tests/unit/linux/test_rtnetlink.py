# SPDX-License-Identifier: Apache-2.0
"""Links, addresses and routes as the kernel lists them to anybody, compared with iproute2 and /proc."""

from __future__ import annotations

import ipaddress
import json
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.linux import rtnetlink
from oakum.linux.netlink import Message, NetlinkSocket


def ip(*arguments: str) -> list[dict[str, object]]:
    return json.loads(subprocess.check_output(["ip", "-j", *arguments]) or b"[]")


def test_links_are_those_that_ip_shows() -> None:
    with NetlinkSocket() as route:
        ours = {(link.ifindex, link.name, link.mtu, link.mac) for link in rtnetlink.list_links(route)}
        assert ours == {(int(str(e["ifindex"])), e["ifname"], e["mtu"], e["address"]) for e in ip("link")}
        lo = rtnetlink.get_link(route, "lo", stats=True)
        assert lo is not None
        assert (lo.ifindex, lo.is_up, bool(lo.flags & rtnetlink.IFF_LOOPBACK)) == (1, True, True)
        assert lo.stats.rx_bytes == lo.stats.tx_bytes
        assert rtnetlink.get_link(route, "nothing-here") is None


def test_addresses_and_routes_are_those_that_ip_shows() -> None:
    with NetlinkSocket() as route:
        ours = {str(address.interface) for address in rtnetlink.list_addresses(route)}
        theirs = {
            f"{info['local']}/{info['prefixlen']}"
            for entry in ip("addr")
            for info in entry["addr_info"]  # type: ignore[attr-defined]
        }
        assert ours == theirs
        assert {str(a.interface) for a in rtnetlink.list_addresses(route, index=1)} >= {"127.0.0.1/8"}
        defaults = [r for r in rtnetlink.list_routes(route) if r.destination.prefixlen == 0 and r.is_unicast]
        assert len(defaults) == len(ip("route", "show", "default")) + len(
            ip("-6", "route", "show", "default")
        )


@given(st.sampled_from([16, 20, 24]), st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(kind: int, payload: bytes) -> None:
    parse = {16: rtnetlink.parse_link, 20: rtnetlink.parse_address, 24: rtnetlink.parse_route}[kind]
    try:
        parse(Message(kind, 0, 1, 0, payload))
    except ValueError:
        pass  # the one way to say no


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_route_comes_back_as_it_was(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    length = min(length, address.max_prefixlen)
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    family = 2 if address.version == 4 else 10
    payload = struct.pack("=BBBBBBBBI", family, length, 0, 0, 254, 4, 0, 1, 0)
    payload += struct.pack("=HH", 4 + len(network.network_address.packed), 1) + network.network_address.packed
    payload += struct.pack("=HHI", 8, 4, 7)
    assert rtnetlink.parse_route(Message(24, 0, 1, 0, payload)) == rtnetlink.Route(network, 254, 7, True)


@pytest.mark.parametrize("bad", ["", "02:00", "02:00:00:00:00:00:01", "zz:00:00:00:00:01"])
def test_what_is_no_mac_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"MAC|hex"):
        rtnetlink.mac_bytes(bad)


def test_requests_name_what_they_do() -> None:
    interface = ipaddress.ip_interface("10.1.2.3/16")
    assert rtnetlink.add_address(2, interface, subject="eth0").subject == "10.1.2.3/16 to eth0"
    route = rtnetlink.add_default_route(2, ipaddress.ip_address("10.1.0.1"), subject="eth0")
    assert (route.operation, route.subject) == ("add default route", "via 10.1.0.1 in eth0")
    assert rtnetlink.delete_link("oak1").tolerated
