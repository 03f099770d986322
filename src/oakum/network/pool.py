# SPDX-License-Identifier: Apache-2.0
"""Which subnet a network gets, and which address and MAC a sandbox gets from it. Pure functions."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Collection, Iterable, Iterator

from oakum.errors import ResourceExhausted
from oakum.linux.rtnetlink import Network

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


def host_interface_of(table: str, sandbox_id: str) -> str:
    """The name of the host's end of a sandbox's link, at most 15 characters."""
    return "oak" + hashlib.sha256(f"{table}/{sandbox_id}".encode()).hexdigest()[:12]
