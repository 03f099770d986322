# SPDX-License-Identifier: Apache-2.0
"""Bridges, and links between them and sandboxes: plans for netlink made and carried out. Knows no database."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from oakum.errors import FailedPrecondition, SystemFailure, Unavailable
from oakum.linux import rtnetlink, traffic
from oakum.linux.netlink import NetlinkSocket, Request
from oakum.linux.netns import inside, own_netns
from oakum.network.attachment import INTERFACE
from oakum.network.database import NetworkRow
from oakum.network.pool import mac_of

_DEFAULT_MTU: Final = 1500
_LINK_LOCAL: Final = ipaddress.IPv6Interface("fe80::1/64")
_LOCK_TIMEOUT_S: Final = 30.0
_LOCK_PAUSE_S: Final = 0.005
# The kernel's answer to an IPv6 address on an interface where net.ipv6.conf.*.disable_ipv6 is set.
_IPV6_OFF: Final = frozenset({errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})


class LinkPlan(NamedTuple):
    """One of a sandbox's links: the host's end, and what the inner end is to have.

    `leads4` and `leads6` say whether everything else goes through its gateways.
    """

    host_interface: str
    bridge_index: int
    mtu: int
    address4: rtnetlink.Interface
    address6: rtnetlink.Interface | None
    gateway4: rtnetlink.Address
    gateway6: rtnetlink.Address | None
    chosen_mac: str = ""
    ingress_bits_per_s: int = 0
    egress_bits_per_s: int = 0
    interface: str = INTERFACE
    leads4: bool = True
    leads6: bool = True

    @property
    def mac(self) -> str:
        """The inner end's MAC."""
        address = self.address4.ip
        assert address.version == 4
        return self.chosen_mac or mac_of(address)


@contextmanager
def host_network_lock() -> Generator[None]:
    """Keep others that hold this lock from making bridges in this network namespace.

    The lock is on the namespace itself, so stores that know nothing of each other choose their subnets in turn.
    """
    with own_netns() as netns:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(netns.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "lock host network", "", f"another process has held it for {_LOCK_TIMEOUT_S:.0f} s"
                    ) from None
                time.sleep(_LOCK_PAUSE_S)
        yield


def bridge_is_ready(route: NetlinkSocket, network: NetworkRow) -> rtnetlink.Link | None:
    """The network's bridge when it is up and has its addresses, else None. Raises SystemFailure."""
    link = rtnetlink.get_link(route, network.bridge)
    if link is None or not link.is_up:
        return None
    have = {address.interface for address in rtnetlink.list_addresses(route, index=link.ifindex)}
    return link if have.issuperset(bridge_addresses(network)) else None


def bridge_addresses(network: NetworkRow) -> list[rtnetlink.Interface]:
    """The addresses of a network's bridge: the first of each subnet, and a link-local one."""
    found: list[rtnetlink.Interface] = [interface_at(network.subnet4, 1)]
    if network.subnet6 is not None:
        # Neighbours of forwarded packets are looked for from a link-local address; the one that the kernel makes
        # waits for duplicates for a second or two after the first pod came, and packets to pods would be lost.
        found += [interface_at(network.subnet6, 1), _LINK_LOCAL]
    return found


def interface_at(subnet: rtnetlink.Network, offset: int) -> rtnetlink.Interface:
    """The address at `offset` with the subnet's prefix."""
    value = int(subnet.network_address) + offset
    if subnet.version == 4:
        return ipaddress.IPv4Interface((value, subnet.prefixlen))
    return ipaddress.IPv6Interface((value, subnet.prefixlen))


def make_bridge(route: NetlinkSocket, network: NetworkRow, *, alias: str) -> rtnetlink.Link:
    """The network's bridge, made or completed; within `host_network_lock`.

    Raises:
        FailedPrecondition: something else has its name.
        SystemFailure: the kernel refuses.
    """
    digest = hashlib.sha256(alias.encode(errors="surrogateescape") + network.bridge.encode()).digest()
    mac = (b"\x02" + digest[:5]).hex(":")
    mtu = network.mtu or uplink_mtu(route)
    route.execute([rtnetlink.create_bridge(network.bridge, mac=mac, mtu=mtu)])
    link = rtnetlink.get_link(route, network.bridge)
    if link is None or link.kind != "bridge":
        raise FailedPrecondition(
            "make bridge", network.bridge, "an interface of another kind has this name", hint="rename it"
        )
    route.execute([rtnetlink.set_up(network.bridge), rtnetlink.set_alias(network.bridge, alias)])
    route.execute(
        [
            rtnetlink.add_address(link.ifindex, own, subject=network.bridge)
            for own in bridge_addresses(network)
        ]
    )
    return link


def rejoin(route: NetlinkSocket, bridge: rtnetlink.Link, host_interfaces: Collection[str]) -> None:
    """Have the links of sandboxes at a bridge again that was deleted under them. Raises SystemFailure."""
    for link in rtnetlink.list_links(route):
        if link.name in host_interfaces and link.master != bridge.ifindex:
            route.execute([rtnetlink.set_master(link.name, bridge.ifindex), rtnetlink.set_hairpin(link.name)])


def uplink_mtu(route: NetlinkSocket) -> int:
    """The MTU of the host's default route, so that pods send nothing that it cannot carry."""
    links = {link.ifindex: link for link in rtnetlink.list_links(route)}
    found = [
        links[r.link_index].mtu
        for r in rtnetlink.list_routes(route)
        if r.destination.prefixlen == 0 and r.is_unicast and r.link_index in links
    ]
    return min(found, default=_DEFAULT_MTU)


def taken_subnets(route: NetlinkSocket, *, but_by: str) -> list[rtnetlink.Network]:
    """What the host has routes to or addresses in, but for those of one bridge."""
    own = rtnetlink.get_link(route, but_by)
    index = own.ifindex if own is not None else -1
    routes = [r.destination for r in rtnetlink.list_routes(route) if r.link_index != index]
    addresses = [a.interface.network for a in rtnetlink.list_addresses(route) if a.ifindex != index]
    return routes + addresses


def host_has_ipv6_address(route: NetlinkSocket) -> bool:
    """Whether some interface that is no bridge of ours has an IPv6 address that is not link-local."""
    links = {link.ifindex: link for link in rtnetlink.list_links(route)}
    for address in rtnetlink.list_addresses(route):
        link = links.get(address.ifindex)
        if address.interface.version != 6 or address.scope != 0 or link is None:
            continue
        if not link.flags & rtnetlink.IFF_LOOPBACK and not link.name.startswith("oakum"):
            return True
    return False


def connect(route: NetlinkSocket, plan: LinkPlan, *, netns_fd: int, netns_path: str) -> bool:
    """Link a namespace to the bridge and set it up inside; whether IPv6 could be set up, too.

    What is there already is kept when it is right, else made anew. Raises SystemFailure.
    """
    with inside(netns_fd, NetlinkSocket, subject=netns_path) as inner:
        was_there = False
        if not _make(route, plan, netns_fd):  # one of its ends is there
            was_there = _existing(route, inner, plan) is not None
            if not was_there:
                route.execute([rtnetlink.delete_link(plan.host_interface)] if _is_there(route, plan) else [])
                _make(route, plan, netns_fd, tolerated=frozenset())
            route.execute([rtnetlink.set_hairpin(plan.host_interface)])
        index = inner.index_of(plan.interface)
        if index is None:
            raise SystemFailure("look up link", plan.interface, "it vanished while it was set up")
        if plan.egress_bits_per_s or was_there:
            _limit(inner, index, plan.egress_bits_per_s, subject=plan.interface)
        if plan.ingress_bits_per_s or was_there:
            host = route.index_of(plan.host_interface)
            if host is not None:
                _limit(route, host, plan.ingress_bits_per_s, subject=plan.host_interface)
        return _set_up_inside(inner, index, plan)


def _make(
    route: NetlinkSocket,
    plan: LinkPlan,
    netns_fd: int,
    tolerated: frozenset[int] = frozenset({errno.EEXIST}),
) -> bool:
    """Make both ends of a link, of which none may be there; whether it was made. Raises SystemFailure."""
    create = rtnetlink.create_veth(
        plan.host_interface,
        bridge_index=plan.bridge_index,
        mtu=plan.mtu,
        peer_name=plan.interface,
        peer_mac=plan.mac,
        peer_netns_fd=netns_fd,
    )
    hairpin = rtnetlink.set_hairpin(plan.host_interface)
    # One call for both: where it was not made there may be nothing to set, or no port, and the caller looks at what is there.
    nothing_to_set = frozenset({errno.ENODEV, errno.EOPNOTSUPP})
    made, was_set = route.execute(
        [create._replace(tolerated=tolerated), hairpin._replace(tolerated=nothing_to_set)]
    )
    if not made.errno and was_set.errno:
        route.execute([hairpin])
    return not made.errno


def _limit(route: NetlinkSocket, index: int, bits_per_s: int, *, subject: str) -> None:
    """Limit what a link sends, or (0) lift that: the host's end sends what the sandbox receives, and vice versa."""
    if bits_per_s:
        route.execute([traffic.limit_rate(index, bits_per_s, subject=subject)])
    else:
        route.execute([traffic.lift_limit(index, subject=subject)])


def _is_there(route: NetlinkSocket, plan: LinkPlan) -> bool:
    return rtnetlink.get_link(route, plan.host_interface) is not None


def _existing(route: NetlinkSocket, inner: NetlinkSocket, plan: LinkPlan) -> rtnetlink.Link | None:
    """The inner end when both ends are as planned."""
    link = rtnetlink.get_link(inner, plan.interface)
    if link is None:
        return None
    host = rtnetlink.get_link(route, plan.host_interface)
    if link.kind != "veth" or host is None:
        raise FailedPrecondition(
            "attach sandbox", plan.host_interface, f"its namespace has another {plan.interface} already"
        )
    if link.mac != plan.mac:
        return None
    if host.master != plan.bridge_index:
        route.execute([rtnetlink.set_master(plan.host_interface, plan.bridge_index)])
    return link


def _set_up_inside(inner: NetlinkSocket, index: int, plan: LinkPlan) -> bool:
    name = plan.interface
    requests = [
        rtnetlink.set_up("lo"),
        rtnetlink.set_up(name),
        rtnetlink.add_address(index, plan.address4, subject=name),
    ]
    if plan.address6 is not None:
        address = rtnetlink.add_address(index, plan.address6, subject=name)
        requests.append(address._replace(tolerated=address.tolerated | _IPV6_OFF))
    leads6 = plan.leads6 and plan.address6 is not None and plan.gateway6 is not None
    if leads6 and plan.gateway6 is not None:
        requests.append(_lead6(index, plan.gateway6, name))
    if plan.leads4:
        requests.append(rtnetlink.add_default_route(index, plan.gateway4, subject=name))
    verdicts = inner.execute(requests)
    with_ipv6 = plan.address6 is not None and verdicts[3].errno not in _IPV6_OFF
    return with_ipv6 and not (leads6 and verdicts[4].errno)


def _lead6(index: int, gateway: rtnetlink.Address, name: str) -> Request:
    default = rtnetlink.add_default_route(index, gateway, subject=name)
    return default._replace(tolerated=_IPV6_OFF | {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL})


def lead(gateways: Sequence[tuple[str, rtnetlink.Address]], *, netns_fd: int, netns_path: str) -> None:
    """Send everything else in a namespace through `gateways`, each with its interface. Raises SystemFailure."""
    with inside(netns_fd, NetlinkSocket, subject=netns_path) as inner:
        for name, gateway in gateways:
            link = rtnetlink.get_link(inner, name)
            if link is not None:
                add = rtnetlink.add_default_route(link.ifindex, gateway, subject=name)
                inner.execute([add if gateway.version == 4 else _lead6(link.ifindex, gateway, name)])
