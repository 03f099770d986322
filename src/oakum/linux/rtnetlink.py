# SPDX-License-Identifier: Apache-2.0
"""Links, addresses and routes: the rtnetlink messages that a bridge network needs, and only those.

Functions that build requests are pure; `netlink.NetlinkSocket` sends them. Source: rtnetlink(7),
linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

from oakum.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    Request,
    attribute,
    nested,
    parse_attributes,
    parse_text,
    text,
    u8,
    u32,
)
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_IFALIAS: Final = 20
_IFLA_STATS64: Final = 23
_IFLA_NET_NS_FD: Final = 28
_IFLA_EXT_MASK: Final = 29
_RTEXT_FILTER_SKIP_STATS: Final = 8
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_INFO_SLAVE_KIND: Final = 4
_IFLA_INFO_SLAVE_DATA: Final = 5
_VETH_INFO_PEER: Final = 1
_IFLA_BR_FORWARD_DELAY: Final = 1
_IFLA_BR_STP_STATE: Final = 5
_IFLA_BRPORT_MODE: Final = 4

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_BROADCAST: Final = 4
_IFA_FLAGS: Final = 8
_IFA_F_NODAD: Final = 0x02

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_TABLE: Final = 15
_RT_TABLE_MAIN: Final = 254
_RT_TABLE_LOCAL: Final = 255
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RTN_UNICAST: Final = 1

IFF_UP: Final = 0x01
IFF_LOOPBACK: Final = 0x08

_IFINFOMSG: Final = struct.Struct("=BxHiII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_STATS64: Final = struct.Struct("=8Q")

_EXISTS: Final = frozenset({errno.EEXIST})
_ABSENT: Final = frozenset({errno.ENODEV, errno.ENOENT})


class LinkStats(NamedTuple):
    """Traffic of a link as its own side counts it (struct rtnl_link_stats64)."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class Link(NamedTuple):
    """A network interface; `master` is the index of its bridge, 0 for none."""

    ifindex: int
    name: str
    flags: int
    mtu: int = 0
    mac: str = ""
    master: int = 0
    kind: str = ""
    alias: str = ""
    stats: LinkStats = LinkStats()

    @property
    def is_up(self) -> bool:
        """Whether it is set up (its peer may still be down)."""
        return bool(self.flags & IFF_UP)


class LinkAddress(NamedTuple):
    """An address of the link with index `ifindex`; `scope` 0 is global."""

    ifindex: int
    interface: Interface
    scope: int


class Route(NamedTuple):
    """A route; `link_index` 0 where it names no link."""

    destination: Network
    table: int
    link_index: int
    is_unicast: bool


def mac_bytes(mac: str) -> bytes:
    """The six bytes of "02:00:00:00:00:01". Raises ValueError."""
    data = bytes.fromhex(mac.replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return data


def _link_message(index: int = 0, *, up: bool = False) -> bytes:
    flag = IFF_UP if up else 0
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flag, flag)


def create_bridge(name: str, *, mac: str, mtu: int) -> Request:
    """Make a bridge that is up and forwards at once; one that exists is left as it is."""
    # A MAC of its own, else a bridge takes its lowest port's and changes it as pods come and go.
    payload = (
        _link_message(up=True)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_ADDRESS, mac_bytes(mac))
        + u32(_IFLA_MTU, mtu)
        + nested(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "bridge"),
            nested(_IFLA_INFO_DATA, u32(_IFLA_BR_STP_STATE, 0), u32(_IFLA_BR_FORWARD_DELAY, 0)),
        )
    )
    return Request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, "create bridge", name, _EXISTS)


def create_veth(
    name: str,
    *,
    bridge_index: int,
    mtu: int,
    peer_name: str,
    peer_mac: str,
    peer_netns_fd: int,
) -> Request:
    """Make a pair whose near end `name` is a port of the bridge and whose peer is born in the other namespace."""
    peer = (
        _link_message()
        + text(_IFLA_IFNAME, peer_name)
        + attribute(_IFLA_ADDRESS, mac_bytes(peer_mac))
        + u32(_IFLA_MTU, mtu)
        + u32(_IFLA_NET_NS_FD, peer_netns_fd)
    )
    payload = (
        _link_message(up=True)
        + text(_IFLA_IFNAME, name)
        + u32(_IFLA_MTU, mtu)
        + u32(_IFLA_MASTER, bridge_index)
        + nested(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "veth"),
            nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer)),
        )
    )
    return Request(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, "create veth", name, _EXISTS)


def set_hairpin(name: str) -> Request:
    """Let a bridge port send frames back where they came from: a pod that reaches its own published port."""
    payload = (
        _link_message(up=True)
        + text(_IFLA_IFNAME, name)
        + nested(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_SLAVE_KIND, "bridge"),
            nested(_IFLA_INFO_SLAVE_DATA, u8(_IFLA_BRPORT_MODE, 1)),
        )
    )
    return Request(_RTM_NEWLINK, 0, payload, "set bridge port", name)


def set_master(name: str, bridge_index: int) -> Request:
    """Make a link a port of a bridge (0: of none)."""
    payload = _link_message() + text(_IFLA_IFNAME, name) + u32(_IFLA_MASTER, bridge_index)
    return Request(_RTM_NEWLINK, 0, payload, "set bridge of", name)


def move_link(index: int, name: str, netns_fd: int, *, subject: str) -> Request:
    """Move a link to another network namespace, where it is called `name`; its addresses and state are lost."""
    payload = _link_message(index) + text(_IFLA_IFNAME, name) + u32(_IFLA_NET_NS_FD, netns_fd)
    return Request(_RTM_NEWLINK, 0, payload, "move network device", subject)


def set_up(name: str) -> Request:
    """Set a link up."""
    # A name needs no number: ifi_index 0 makes the kernel look for it.
    return Request(_RTM_NEWLINK, 0, _link_message(up=True) + text(_IFLA_IFNAME, name), "set up link", name)


def set_alias(name: str, alias: str) -> Request:
    """Note on a link what it is for, where `ip link` shows it."""
    # The kernel takes no alias while it creates a link.
    payload = _link_message(up=True) + text(_IFLA_IFNAME, name) + text(_IFLA_IFALIAS, alias)
    return Request(_RTM_NEWLINK, 0, payload, "set alias of", name)


def delete_link(name: str) -> Request:
    """Delete a link, and with a veth its peer; one that is gone is fine."""
    return Request(_RTM_DELLINK, 0, _link_message() + text(_IFLA_IFNAME, name), "delete link", name, _ABSENT)


def add_address(index: int, interface: Interface, *, subject: str) -> Request:
    """Give a link an address with its prefix; no waiting for duplicates of it (the pool hands none out twice)."""
    address = interface.ip.packed
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    payload = _IFADDRMSG.pack(family, interface.network.prefixlen, 0, 0, index)
    payload += attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
    if interface.version == 4:
        payload += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    else:
        payload += u32(_IFA_FLAGS, _IFA_F_NODAD)
    return Request(
        _RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload, "add address", f"{interface} to {subject}", _EXISTS
    )


def add_default_route(index: int, gateway: Address, *, subject: str) -> Request:
    """Send everything else through `gateway`; replaces a default route that is there."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    payload = (
        _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0)
        + u32(_RTA_OIF, index)
        + attribute(_RTA_GATEWAY, gateway.packed)
    )
    return Request(
        _RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        payload,
        "add default route",
        f"via {gateway} in {subject}",
    )


def get_link(route: NetlinkSocket, name: str, *, stats: bool = False) -> Link | None:
    """The link called `name`; None when there is none. Raises SystemFailure."""
    payload = _link_message() + text(_IFLA_IFNAME, name)
    if not stats:
        payload += u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    answer = route.ask(Request(_RTM_GETLINK, 0, payload, "look up link", name, _ABSENT))
    return parse_link(answer) if answer is not None else None


def list_links(route: NetlinkSocket, *, master: int = 0, stats: bool = False) -> list[Link]:
    """All links, or the ports of the bridge with index `master`. Raises SystemFailure."""
    payload = _link_message() + u32(_IFLA_EXT_MASK, 0 if stats else _RTEXT_FILTER_SKIP_STATS)
    if master:
        payload += u32(_IFLA_MASTER, master)
    found = [parse_link(m) for m in route.dump(Request(_RTM_GETLINK, 0, payload, "list links"))]
    return [link for link in found if not master or link.master == master]


def list_addresses(route: NetlinkSocket, *, index: int = 0) -> list[LinkAddress]:
    """All addresses, or those of one link. Raises SystemFailure."""
    request = Request(_RTM_GETADDR, 0, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, index), "list addresses")
    found = [parse_address(m) for m in route.dump(request)]
    return [a for a in found if a is not None and (not index or a.ifindex == index)]


def list_routes(route: NetlinkSocket) -> list[Route]:
    """The routes of all tables but the local one. Raises SystemFailure."""
    found: list[Route] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = Request(_RTM_GETROUTE, 0, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), "list routes")
        found += [r for m in route.dump(request) if (r := parse_route(m)) is not None]
    return [r for r in found if r.table != _RT_TABLE_LOCAL]


def parse_link(message: Message) -> Link:
    """The link that a message describes. Raises ValueError when cut."""
    _, _, index, flags, _ = _unpack(_IFINFOMSG, message)
    found = parse_attributes(message.payload[_IFINFOMSG.size :])
    info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
    stats = found.get(_IFLA_STATS64, b"")
    return Link(
        index,
        parse_text(found.get(_IFLA_IFNAME, b"")),
        flags,
        _number(found.get(_IFLA_MTU)),
        found.get(_IFLA_ADDRESS, b"").hex(":"),
        _number(found.get(_IFLA_MASTER)),
        parse_text(info.get(_IFLA_INFO_KIND, b"")),
        parse_text(found.get(_IFLA_IFALIAS, b"")),
        LinkStats(*_STATS64.unpack_from(stats)) if len(stats) >= _STATS64.size else LinkStats(),
    )


def parse_address(message: Message) -> LinkAddress | None:
    """The address that a message describes; None for a family other than IP. Raises ValueError when cut."""
    family, prefix, _, scope, index = _unpack(_IFADDRMSG, message)
    found = parse_attributes(message.payload[_IFADDRMSG.size :])
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    # From bytes, not by way of a text: each start of a sandbox looks at its bridge's.
    if family == socket.AF_INET and len(packed) == 4:
        return LinkAddress(index, ipaddress.IPv4Interface((packed, prefix)), scope)
    if family == socket.AF_INET6 and len(packed) == 16:
        return LinkAddress(index, ipaddress.IPv6Interface((packed, prefix)), scope)
    return None


def parse_route(message: Message) -> Route | None:
    """The route that a message describes; None for a family other than IP. Raises ValueError when cut."""
    family, prefix, _, _, table, _, _, kind, _ = _unpack(_RTMSG, message)
    found = parse_attributes(message.payload[_RTMSG.size :])
    address = _address(family, found.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16)))
    if address is None:
        return None
    network = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    return Route(
        network, _number(found.get(_RTA_TABLE)) or table, _number(found.get(_RTA_OIF)), kind == _RTN_UNICAST
    )


def _unpack(layout: struct.Struct, message: Message) -> tuple[int, ...]:
    if len(message.payload) < layout.size:
        raise ValueError(f"netlink message {message.kind} of {len(message.payload)} bytes")
    return layout.unpack_from(message.payload)


def _number(data: bytes | None) -> int:
    return struct.unpack("=I", data)[0] if data is not None and len(data) == 4 else 0


def _address(family: int, packed: bytes) -> Address | None:
    if family == socket.AF_INET and len(packed) == 4:
        return ipaddress.IPv4Address(packed)
    if family == socket.AF_INET6 and len(packed) == 16:
        return ipaddress.IPv6Address(packed)
    return None
