# SPDX-License-Identifier: Apache-2.0
"""Flows as the kernel describes them. That they are found and forgotten is shown by the kernel tests of ports."""

from __future__ import annotations

import ipaddress
import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from oakum.linux.conntrack import parse_flow
from oakum.linux.netlink import Message, attribute, nested, u8


def flow_message(address: bytes, port: int) -> Message:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    where = nested(1, attribute(2 if len(address) == 4 else 4, address))
    what = nested(2, u8(1, 17), attribute(3, struct.pack("!H", port)))
    payload = bytes([family, 0, 0, 0]) + nested(1, where, what) + attribute(12, b"\1\2\3\4")
    return Message(0x100, 0, 1, 0, payload)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_flow_says_where_it_went(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    flow = parse_flow(flow_message(address.packed, port))
    assert flow is not None
    assert (flow.destination, flow.port, flow.protocol, flow.id_bytes) == (address, port, 17, b"\1\2\3\4")


def test_a_flow_without_ports_is_none_of_ours() -> None:
    payload = bytes([2, 0, 0, 0]) + nested(1, nested(1, attribute(2, bytes(4)))) + attribute(12, bytes(4))
    assert parse_flow(Message(0x100, 0, 1, 0, payload)) is None


@given(st.binary(max_size=150))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        parse_flow(Message(0x100, 0, 1, 0, payload))
    except ValueError:
        pass  # the one way to say no
