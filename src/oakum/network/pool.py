# SPDX-License-Identifier: Apache-2.0
"""Which subnet a network gets, and which address and MAC a sandbox gets from it. Pure functions."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import re
from collections.abc import Collection, Iterable, Iterator

from oakum.errors import InvalidArgument, ResourceExhausted
from oakum.linux.rtnetlink import Network
from oakum.network.attachment import INTERFACE

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", re.ASCII)
PREFIX = INTERFACE.rstrip("0")
# Offset 0 is the network, 1 the gateway.
FIRST_OFFSET = 2


def candidates() -> Iterator[ipaddress.IPv4Network]:
    """Subnets to try, first those that other tools rarely use."""
    for second in range(173, 200):
        yield ipaddress.IPv4Network((f"10.{second}.0.0", 16))
    for second in range(20, 32):
        yield ipaddress.IPv4Network((f"172.{second}.0.0", 16))
    for third in range(128, 256, 16):
        yield ipaddress.IPv4Network((f"192.168.{third}.0", 20))


def is_free(subnet: Network, taken: Iterable[Network]) -> bool:
    """Whether a subnet touches none of the routes taken; a default route takes nothing."""
    return not any(
        other.prefixlen > 0 and other.version == subnet.version and subnet.overlaps(other) for other in taken
    )


def choose_subnet(taken: Collection[Network]) -> ipaddress.IPv4Network:
    """The first candidate that is free.

    Raises:
        ResourceExhausted: the host has routes to all of them.
    """
    for subnet in candidates():
        if is_free(subnet, taken):
            return subnet
    raise ResourceExhausted(
        "choose subnet", "", "the host has routes to all private networks", hint="remove unused networks"
    )


def unique_local_subnet(seed: str) -> ipaddress.IPv6Network:
    """A /64 of unique local addresses that depends on `seed` only (RFC 4193)."""
    digest = hashlib.sha256(seed.encode(errors="surrogateescape")).digest()
    return ipaddress.IPv6Network((b"\xfd" + digest[:5] + bytes(10), 64))


def next_offset(size: int, last: int, used: Collection[int]) -> int:
    """The first unused offset after `last`, going round; an address is left alone as long as possible after its use.

    The last offset is the broadcast address.

    Raises:
        ResourceExhausted: none is left.
    """
    end = size - 1
    start = min(max(last + 1, FIRST_OFFSET), end)
    for offset in itertools.chain(range(start, end), range(FIRST_OFFSET, start)):
        if offset not in used:
            return offset
    raise ResourceExhausted(
        "assign address", "", f"all {end - FIRST_OFFSET} addresses of the network are in use"
    )


def mac_of(address: ipaddress.IPv4Address) -> str:
    """The MAC for an address: a locally administered one that tells the address.

    An address that comes back has its MAC again, so neighbours need not forget.
    """
    return (b"\x0a\x58" + address.packed).hex(":")


def parse_subnets(
    texts: Iterable[str],
) -> tuple[ipaddress.IPv4Network | None, ipaddress.IPv6Network | None]:
    """The subnets that a user chose for a network: at most one of each family.

    Raises:
        InvalidArgument: not a subnet, too small for a sandbox, or the second of its family.
    """
    found: dict[int, Network] = {}
    for text in texts:
        try:
            subnet = ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidArgument(
                "create network", repr(text[:80]), str(error), hint="write it as 10.9.0.0/24"
            ) from error
        if subnet.num_addresses <= FIRST_OFFSET + 1:
            raise InvalidArgument("create network", text, "too small: it has no address for a sandbox")
        if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or subnet.prefixlen == 0:
            raise InvalidArgument("create network", text, "not a subnet for sandboxes")
        if subnet.version in found:
            raise InvalidArgument("create network", text, f"a second subnet of IPv{subnet.version}")
        found[subnet.version] = subnet
    subnet4, subnet6 = found.get(4), found.get(6)
    assert subnet4 is None or subnet4.version == 4
    assert subnet6 is None or subnet6.version == 6
    return subnet4, subnet6


def offset_of(
    addresses: Iterable[str], subnet4: ipaddress.IPv4Network, subnet6: ipaddress.IPv6Network | None
) -> int | None:
    """The offset that a sandbox's chosen addresses mean; None for none. Both families share one.

    Raises:
        InvalidArgument: not an address that a sandbox of these subnets can have, or two that lie apart.
    """
    chosen: int | None = None
    for text in addresses:
        try:
            address = ipaddress.ip_interface(text).ip
        except ValueError as error:
            raise InvalidArgument("assign address", repr(text[:80]), str(error)) from error
        subnet = subnet4 if address.version == 4 else subnet6
        if subnet is None or address not in subnet:
            raise InvalidArgument("assign address", text, f"not in {subnet or 'a network without IPv6'}")
        offset = int(address) - int(subnet.network_address)
        if not FIRST_OFFSET <= offset < subnet4.num_addresses - 1:
            raise InvalidArgument(
                "assign address", text, "it is not for sandboxes: network, gateway or broadcast"
            )
        if chosen is not None and offset != chosen:
            raise InvalidArgument(
                "assign address",
                text,
                "the addresses of both families have to have the same place in their subnets",
            )
        chosen = offset
    return chosen


def check_mac(mac: str) -> None:
    """Raises InvalidArgument for a text that is neither empty nor the MAC of one station."""
    if not mac:
        return
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or not int(mac.replace(":", ""), 16):
        raise InvalidArgument(
            "assign MAC", repr(mac[:40]), "not a MAC of one station", hint="such as 02:00:00:00:00:05"
        )


def bridge_of(table: str, network: str) -> str:
    """The name of a created network's bridge: 15 characters, the longest that a link may have."""
    return "oakum" + hashlib.sha256(f"{table}/{network}".encode()).hexdigest()[:10]


def host_interface_of(table: str, sandbox_id: str, interface: str = INTERFACE) -> str:
    """The name of the host's end of a sandbox's link, at most 15 characters."""
    place = sandbox_id if interface == INTERFACE else f"{sandbox_id}/{interface}"
    return "oak" + hashlib.sha256(f"{table}/{place}".encode()).hexdigest()[:12]


def free_interface(taken: Collection[str]) -> str:
    """The name of a sandbox's next interface: eth0, then eth1 and so on."""
    return next(name for number in itertools.count() if (name := f"{PREFIX}{number}") not in taken)
