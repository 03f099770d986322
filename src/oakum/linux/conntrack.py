# SPDX-License-Identifier: Apache-2.0
"""The kernel's list of flows: finding those to a port and forgetting them. Source: linux/netfilter/nfnetlink_conntrack.h."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

from oakum.linux.netlink import (
    Message,
    NetlinkSocket,
    Request,
    attribute,
    nested,
    parse_attributes,
    u8,
    u32,
)
from oakum.linux.rtnetlink import Address
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_NETLINK_NETFILTER: Final = 12
_GET: Final = 0x0101
_DELETE: Final = 0x0102
_HEADER: Final = struct.Struct("=BBH")
_CTA_TUPLE_ORIG: Final = 1
_CTA_ID: Final = 12
_CTA_FILTER: Final = 25
_CTA_TUPLE_IP: Final = 1
_CTA_TUPLE_PROTO: Final = 2
_CTA_IP_V4_DST: Final = 2
_CTA_IP_V6_DST: Final = 4
_CTA_PROTO_NUM: Final = 1
_CTA_PROTO_DST_PORT: Final = 3
_CTA_FILTER_ORIG_FLAGS: Final = 1
_CTA_FILTER_REPLY_FLAGS: Final = 2
_BY_PROTOCOL: Final = 1 << 3
# Kernels without ctnetlink answer so; what they track cannot be changed.
_NO_CTNETLINK: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL})


class Flow(NamedTuple):
    """A tracked flow: where its first packet was sent to, and what names it to the kernel."""

    family: int
    protocol: int
    destination: Address
    port: int
    tuple_bytes: bytes
    id_bytes: bytes


def forget_flows(family: int, protocol: int, matches: Callable[[Address, int], bool]) -> int:
    """Forget the flows of a family to the addresses and ports that `matches` names; how many there were.

    Works in the calling thread's network namespace. The kernel walks through its whole table, which takes some
    milliseconds however few flows there are: callers do it once for all they want. Raises SystemFailure.
    """
    with NetlinkSocket(_NETLINK_NETFILTER) as conntrack:
        found = [parse_flow(message) for message in conntrack.dump(_query(family, protocol))]
        # Kernels before 5.8 do not filter.
        wanted = [
            flow
            for flow in found
            if flow is not None and flow.protocol == protocol and matches(flow.destination, flow.port)
        ]
        conntrack.execute([_deletion(flow) for flow in wanted])
        return len(wanted)


def _query(family: int, protocol: int) -> Request:
    payload = (
        _HEADER.pack(family, 0, 0)
        + nested(_CTA_TUPLE_ORIG, nested(_CTA_TUPLE_PROTO, u8(_CTA_PROTO_NUM, protocol)))
        + nested(_CTA_FILTER, u32(_CTA_FILTER_ORIG_FLAGS, _BY_PROTOCOL), u32(_CTA_FILTER_REPLY_FLAGS, 0))
    )
    return Request(_GET, 0, payload, "list flows", f"of protocol {protocol}", _NO_CTNETLINK)


def _deletion(flow: Flow) -> Request:
    payload = (
        _HEADER.pack(flow.family, 0, 0)
        + nested(_CTA_TUPLE_ORIG, flow.tuple_bytes)
        + attribute(_CTA_ID, flow.id_bytes)
    )
    gone = frozenset({errno.ENOENT})
    return Request(_DELETE, 0, payload, "forget flow", f"to {flow.destination} port {flow.port}", gone)


def parse_flow(message: Message) -> Flow | None:
    """The flow that a message describes; None for one without IP addresses or ports. Raises ValueError when cut."""
    if len(message.payload) < _HEADER.size:
        raise ValueError(f"conntrack message of {len(message.payload)} bytes")
    family = message.payload[0]
    found = parse_attributes(message.payload[_HEADER.size :])
    tuple_bytes = found.get(_CTA_TUPLE_ORIG, b"")
    parts = parse_attributes(tuple_bytes)
    ports = parse_attributes(parts.get(_CTA_TUPLE_PROTO, b""))
    addresses = parse_attributes(parts.get(_CTA_TUPLE_IP, b""))
    packed = addresses.get(_CTA_IP_V4_DST if family == socket.AF_INET else _CTA_IP_V6_DST, b"")
    port, protocol = ports.get(_CTA_PROTO_DST_PORT, b""), ports.get(_CTA_PROTO_NUM, b"")
    if len(packed) not in (4, 16) or len(port) != 2 or len(protocol) != 1 or _CTA_ID not in found:
        return None
    return Flow(
        family,
        protocol[0],
        ipaddress.ip_address(packed),
        int.from_bytes(port, "big"),
        tuple_bytes,
        found[_CTA_ID],
    )
