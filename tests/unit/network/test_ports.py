# SPDX-License-Identifier: Apache-2.0
"""Host ports: what requests mean, which clash, and whether the host has them free."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.backend.config import PortMapping
from oakum.errors import AlreadyExists, InvalidArgument, Unimplemented
from oakum.network.ports import ANY4, ANY6, Binding, check_free, plan_bindings


def test_no_host_address_means_every_one() -> None:
    asked = [PortMapping(container_port=80, host_port=8080)]
    assert plan_bindings(asked, with_ipv6=False) == [Binding("tcp", ANY4, 8080, 80)]
    assert plan_bindings(asked, with_ipv6=True) == [
        Binding("tcp", ANY4, 8080, 80),
        Binding("tcp", ANY6, 8080, 80),
    ]


def test_host_addresses_are_told_apart() -> None:
    asked = [
        PortMapping(container_port=80, host_port=80, host_ip="127.0.0.1"),
        PortMapping(container_port=80, host_port=80, host_ip="FD00:0::1"),
        PortMapping(container_port=80, host_port=80, host_ip="10.0.0.1"),
        PortMapping(container_port=80, host_port=80, protocol="udp"),
        PortMapping(container_port=99),
    ]
    planned = plan_bindings(asked, with_ipv6=True)
    assert [str(binding) for binding in planned] == [
        "127.0.0.1:80/tcp",
        "[fd00::1]:80/tcp",
        "10.0.0.1:80/tcp",
        "0.0.0.0:80/udp",
        "[::]:80/udp",
    ]


def test_the_same_twice_is_once_but_two_ways_is_a_mistake() -> None:
    one = PortMapping(container_port=80, host_port=8080)
    assert len(plan_bindings([one, one], with_ipv6=False)) == 1
    for other in (
        PortMapping(container_port=81, host_port=8080),
        PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"),
    ):
        with pytest.raises(InvalidArgument, match="asked for twice"):
            plan_bindings([one, other], with_ipv6=False)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        (PortMapping(container_port=0, host_port=80), "not a container port"),
        (PortMapping(container_port=80, host_port=-1), "not a host port"),
        (PortMapping(container_port=80, host_port=80, host_ip="a.example"), "does not appear to be"),
        (PortMapping(container_port=80, host_port=80, host_ip="::2"), "no IPv6"),
        (PortMapping(container_port=80, host_port=80, protocol="icmp"), "no protocol 'icmp'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused(mapping: PortMapping, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        plan_bindings([mapping], with_ipv6=False)


def test_ipv6_loopback_is_refused_with_a_way_out() -> None:
    with pytest.raises(Unimplemented, match=r"use 127\.0\.0\.1"):
        plan_bindings([PortMapping(container_port=80, host_port=80, host_ip="::1")], with_ipv6=True)


bindings = st.builds(
    Binding,
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([ANY4, ANY6, "127.0.0.1", "10.0.0.1", "fd00::1"]),
    st.sampled_from([80, 81]),
    st.sampled_from([1, 2]),
)


@given(bindings, bindings)
def test_clashes_are_mutual_and_of_one_family(one: Binding, two: Binding) -> None:
    assert one.clashes_with(two) == two.clashes_with(one)
    assert one.clashes_with(one)
    if one.clashes_with(two):
        assert (one.protocol, one.host_port, one.version) == (two.protocol, two.host_port, two.version)
        assert one.is_any or two.is_any or one.host_ip == two.host_ip


def test_a_listener_of_this_host_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", ANY4):
            with pytest.raises(AlreadyExists, match=f"{port}/tcp: a process on this host uses it"):
                check_free([Binding("tcp", host, port, 80)])
        check_free([Binding("udp", "127.0.0.1", port, 80)])
    check_free([Binding("tcp", "127.0.0.1", port, 80)])


def test_a_port_on_the_v6_loopback_needs_a_relay_and_no_network_with_ipv6() -> None:
    asked = [
        PortMapping(container_port=80, host_port=80, host_ip="0:0::1"),
        PortMapping(container_port=53, host_port=53, host_ip="::1", protocol="udp"),
    ]
    planned = plan_bindings(asked, with_ipv6=False, with_relay=True)
    assert planned == [Binding("tcp", "::1", 80, 80), Binding("udp", "::1", 53, 53)]
    assert all(binding.is_relayed for binding in planned)
    assert not Binding("tcp", ANY6, 80, 80).is_relayed
    with pytest.raises(Unimplemented, match="sctp from ::1 cannot be forwarded"):
        plan_bindings(
            [PortMapping(container_port=80, host_port=80, host_ip="::1", protocol="sctp")],
            with_ipv6=True,
            with_relay=True,
        )
