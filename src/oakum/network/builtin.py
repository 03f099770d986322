# SPDX-License-Identifier: Apache-2.0
"""The built-in network: a bridge with addresses from a pool, the way out, and host ports.

The host side is the network namespace of the calling thread. What is told to the kernel follows from network.db, so
that any process can complete or undo what a killed one began: addresses and ports are reserved first, links and
rules follow, and all of it may be done again.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
from collections.abc import Collection, Sequence
from typing import Final

from oakum.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OakumError
from oakum.linux import rtnetlink
from oakum.linux.conntrack import forget_flows
from oakum.linux.netlink import NetlinkSocket
from oakum.linux.netns import open_netns
from oakum.network import links, sysctls
from oakum.network.attachment import (
    INTERFACE,
    Attachment,
    AttachmentOptions,
    InterfaceCounters,
    PortRequest,
)
from oakum.network.database import AttachmentRow, NetworkDatabase, NetworkRow, PublishedPort
from oakum.network.firewall import Firewall
from oakum.network.pool import (
    bridge_of,
    check_mac,
    choose_subnet,
    host_interface_of,
    is_free,
    offset_of,
    parse_subnets,
    unique_local_subnet,
)
from oakum.network.ports import Binding, check_free, plan_bindings
from oakum.network.protocol import DEFAULT_NETWORK, NetworkInfo

_SUFFIX: Final = re.compile(r"[a-z0-9]{0,8}", re.ASCII)
_ALIAS: Final = "oakum network "
_NETWORK_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", re.ASCII)
# Words that mean something else where a network is named.
_NO_NAMES: Final = frozenset({"host", "none", "container"})
# The least that IPv4 and IPv6 need, and the most that a frame can say (RFC 791, RFC 8200).
_MTU_RANGE4: Final = (68, 65535)
_LEAST_MTU6: Final = 1280


class BuiltinNetwork:
    """The networks of one ROOT. Safe from many threads and processes at once."""

    def __init__(self, database: str, *, name_suffix: str = "") -> None:
        """Use the database at the absolute path `database`; nothing is opened yet.

        `name_suffix` (at most eight letters and digits) tells this ROOT's bridge and table from those of others on
        the machine. Raises InvalidArgument.
        """
        if not _SUFFIX.fullmatch(name_suffix):
            raise InvalidArgument("open network", repr(name_suffix), "not a suffix for interface names")
        self._path = database
        self.bridge = f"oakum-{name_suffix}" if name_suffix else "oakum0"
        self.table = self.bridge
        self._guard = threading.RLock()
        self._opened_database: NetworkDatabase | None = None
        self._opened_route: NetlinkSocket | None = None
        self._firewall = Firewall(self.table, self._firewall_state, lambda: self._database)

    def close(self) -> None:
        """Close what is open; networks and attachments stay."""
        with self._guard:
            self._firewall.close()
            if self._opened_route is not None:
                self._opened_route.close()
                self._opened_route = None
            if self._opened_database is not None:
                self._opened_database.close()
                self._opened_database = None

    # Sandboxes

    def setup(
        self,
        sandbox_id: str,
        netns_path: str,
        *,
        network: str = DEFAULT_NETWORK,
        port_mappings: Sequence[PortRequest] = (),
        hostname: str = "",
        options: AttachmentOptions = AttachmentOptions(),  # noqa: B008 - immutable
    ) -> Attachment:
        """Attach the network namespace at `netns_path`: address, routes, way out, host ports. May be repeated.

        Of `options`, addresses, MAC and rates count here.

        Raises:
            AlreadyExists: a host port or address is taken, by a process of the host or by another sandbox.
            InvalidArgument: a port, address or MAC that is none.
            NotFound: no such network.
            ResourceExhausted: no address is left.
            SystemFailure: the kernel refuses; nothing is left attached.
        """
        check_mac(options.mac)
        with self._guard, open_netns(netns_path) as netns:
            row, bridge, warnings = self._ensure_network(network)
            bindings = plan_bindings(port_mappings, with_ipv6=row.subnet6 is not None)
            wanted = AttachmentRow(
                sandbox_id,
                row.name,
                netns_path,
                hostname,
                host_interface_of(self.table, sandbox_id),
                0,
                bridge.mtu,
                has_ipv6=False,
                mac=options.mac.lower(),
                ingress=options.ingress_bits_per_s,
                egress=options.egress_bits_per_s,
            )
            chosen = offset_of(options.addresses, row.subnet4, row.subnet6)
            attached, is_new = self._reserve(row, wanted, bindings, chosen=chosen)
            try:
                plan = _link_plan(row, attached, bridge.ifindex)
                has_ipv6 = links.connect(self._route, plan, netns_fd=netns.fileno(), netns_path=netns_path)
                attached = self._publish(attached._replace(has_ipv6=has_ipv6), bindings)
            except BaseException:  # Ctrl-C as well: who asked for nothing keeps nothing
                if is_new:
                    self.teardown(sandbox_id)
                raise
            return _describe(row, attached, tuple(warnings))

    def teardown(self, sandbox_id: str) -> None:
        """Detach a sandbox: its address and ports are free for others. Succeeds for what is gone.

        The link is not deleted here, which would take the kernel some 15 ms: it goes with the namespace, or with `gc`
        where somebody keeps the namespace. Raises SystemFailure.
        """
        with self._guard:
            if self._database.attachment(sandbox_id) is None:
                return
            with self._database.change():
                attached = self._database.attachment(sandbox_id)
                if attached is None:
                    return
                ports = self._published(attached, self._database.bindings(sandbox_id))
                self._database.release(sandbox_id)
                self._firewall.remove_ports(ports)
            self._forget_flows(ports)

    def abandon(self, sandbox_id: str) -> None:
        """As `teardown`, which has nothing that could be put off. Raises SystemFailure."""
        self.teardown(sandbox_id)

    def needs_namespace(self, sandbox_id: str) -> bool:  # noqa: ARG002 - as the protocol has it
        """Nothing is looked for in a sandbox that leaves."""
        return False

    def attachment(self, sandbox_id: str) -> Attachment | None:
        """A sandbox's attachment; None when it has none. Raises SystemFailure."""
        with self._guard:
            row = self._database.attachment(sandbox_id)
            network = self._database.network(row.network) if row is not None else None
            return _describe(network, row) if row is not None and network is not None else None

    def attachments(self) -> list[Attachment]:
        """All attachments. Raises SystemFailure."""
        with self._guard:
            networks = {network.name: network for network in self._database.networks()}
            return [_describe(networks[row.network], row) for row in self._database.attachments()]

    def published(self, sandbox_id: str) -> list[Binding]:
        """The host ports of a sandbox. Raises SystemFailure."""
        with self._guard:
            return self._database.bindings(sandbox_id)

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """The traffic of a sandbox as seen from inside; None when it is not attached. Raises SystemFailure."""
        with self._guard:
            link = rtnetlink.get_link(self._route, host_interface_of(self.table, sandbox_id), stats=True)
            return _seen_from_inside(link.stats) if link is not None else None

    def usages(self) -> dict[str, InterfaceCounters]:
        """The traffic of all attached sandboxes in one pass. Raises SystemFailure."""
        with self._guard:
            names = {row.host_interface: row.sandbox_id for row in self._database.attachments()}
            return {
                names[link.name]: _seen_from_inside(link.stats)
                for link in rtnetlink.list_links(self._route, stats=True)
                if link.name in names
            }

    # Networks

    def networks(self) -> list[NetworkRow]:
        """All networks that were used. Raises SystemFailure."""
        with self._guard:
            return self._database.networks()

    def list_networks(self) -> list[NetworkInfo]:
        """All networks, and the default one even if it was not used yet. Raises SystemFailure."""
        with self._guard:
            rows = self._database.networks() if os.path.exists(self._path) else []
            users: dict[str, list[str]] = {row.name: [] for row in rows}
            for attached in self._database.attachments() if rows else ():
                users[attached.network].append(attached.sandbox_id)
            found = [_inform(row, self._route, users[row.name]) for row in rows]
        if DEFAULT_NETWORK not in users:
            found.insert(0, NetworkInfo(DEFAULT_NETWORK, "bridge", bridge=self.bridge))
        return found

    def has_network(self, name: str) -> bool:
        """Whether a network has been made under this name. Raises SystemFailure."""
        with self._guard:
            return os.path.exists(self._path) and self._database.network(name) is not None

    def create_network(
        self, name: str, *, subnets: Sequence[str] = (), mtu: int = 0, internal: bool = False
    ) -> NetworkInfo:
        """Make a network with a bridge and a pool of its own; what is not said is chosen.

        Raises:
            AlreadyExists: the name or the subnet is taken.
            InvalidArgument: a name, subnet or MTU that cannot be.
        """
        if not _NETWORK_NAME.fullmatch(name) or name in _NO_NAMES:
            raise InvalidArgument(
                "create network", repr(name[:80]), "not a name for a network", hint="letters, digits, . _ -"
            )
        subnet4, subnet6 = parse_subnets(subnets)
        if mtu and not _MTU_RANGE4[0] <= mtu <= _MTU_RANGE4[1]:
            raise InvalidArgument("create network", name, f"an MTU of {mtu} is not possible")
        with self._guard, links.host_network_lock(), self._database.change():
            if self._database.network(name) is not None:
                raise AlreadyExists("create network", repr(name), "it is there", hint="oakum network ls")
            bridge = self.bridge if name == DEFAULT_NETWORK else bridge_of(self.table, name)
            taken = self._taken(name, bridge)
            for subnet in (subnet4, subnet6):
                if subnet is not None and not is_free(subnet, taken):
                    raise AlreadyExists(
                        "create network", str(subnet), "the host or another network uses addresses of it"
                    )
            subnet6 = subnet6 or self._subnet6(name)
            if subnet6 is not None and mtu and mtu < _LEAST_MTU6:
                raise InvalidArgument(
                    "create network", name, f"IPv6 needs an MTU of {_LEAST_MTU6}, not {mtu}"
                )
            row = NetworkRow(name, bridge, subnet4 or choose_subnet(taken), subnet6, mtu, internal)
            if subnet6 is not None and subnet6.num_addresses < row.subnet4.num_addresses:
                raise InvalidArgument("create network", str(subnet6), f"smaller than {row.subnet4}")
            self._make(row)
            return _inform(row, self._route, ())

    def remove_network(self, name: str = DEFAULT_NETWORK) -> None:
        """Remove a network's bridge, and with the last network all our rules; succeeds for what is gone.

        The default network comes back with the next `setup`. Raises FailedPrecondition while a sandbox is attached.
        """
        with self._guard, self._database.change():
            network = self._database.network(name)
            if network is None:
                return
            users = [row.sandbox_id for row in self._database.attachments() if row.network == network.name]
            if users:
                raise FailedPrecondition("remove network", name, f"sandbox {users[0][:12]} is attached")
            if len(self._database.networks()) == 1:
                self._firewall.remove()
            for link in (*self._ports_of(network), network.bridge):
                self._route.execute([rtnetlink.delete_link(link)])
            self._database.drop_network(name)
            if self._database.networks():
                self._firewall.forget_bridge(network.bridge)

    def gc(self, live_ids: Collection[str]) -> list[str]:
        """Free everything of sandboxes that are not in `live_ids`, and restore rules; the ids that were freed.

        Raises SystemFailure.
        """
        with self._guard:
            dead = [row.sandbox_id for row in self._database.attachments() if row.sandbox_id not in live_ids]
            for sandbox_id in dead:
                self.teardown(sandbox_id)
            with self._database.change():
                networks = self._database.networks()
                if networks:
                    self._firewall.replace()
                    self._firewall.ensure()
            kept = {row.host_interface for row in self._database.attachments()}
            stale = [name for network in networks for name in self._ports_of(network) if name not in kept]
        for name in stale:
            # One by one, since each takes the kernel some 15 ms and sandboxes that start meanwhile are not to wait.
            with self._guard, self._database.change():
                if name not in {row.host_interface for row in self._database.attachments()}:
                    self._route.execute([rtnetlink.delete_link(name)])
        with self._guard:
            self._delete_orphaned_bridges()
        return dead

    def problem(self) -> str:
        """Why no sandbox could get an address; "" when one could. What only hinders is no reason."""
        try:
            self.networks()
        except OakumError as error:
            return str(error)
        return ""

    def warnings(self) -> list[str]:
        """What on this host stands in the way of pods' traffic, for people. Raises SystemFailure."""
        with self._guard:
            found: list[str] = []
            for network in self._database.networks():
                found += self._enable(network)
            return found + self._firewall.warnings()

    # Steps

    @property
    def _database(self) -> NetworkDatabase:
        if self._opened_database is None:
            self._opened_database = NetworkDatabase(self._path)
        return self._opened_database

    @property
    def _route(self) -> NetlinkSocket:
        if self._opened_route is None:
            self._opened_route = NetlinkSocket()
        return self._opened_route

    def _firewall_state(self) -> tuple[list[NetworkRow], list[PublishedPort]]:
        ports: list[PublishedPort] = []
        for row in self._database.attachments():
            ports += self._published(row, self._database.bindings(row.sandbox_id))
        return self._database.networks(), ports

    def _published(self, attached: AttachmentRow, bindings: Sequence[Binding]) -> list[PublishedPort]:
        network = self._database.network(attached.network)
        if network is None:
            return []
        by_version = {4: str(links.interface_at(network.subnet4, attached.offset).ip)}
        if attached.has_ipv6 and network.subnet6 is not None:
            by_version[6] = str(links.interface_at(network.subnet6, attached.offset).ip)
        return [
            PublishedPort(binding, by_version[binding.version])
            for binding in bindings
            if binding.version in by_version
        ]

    def _ensure_network(self, name: str) -> tuple[NetworkRow, rtnetlink.Link, list[str]]:
        network = self._database.network(name)
        if network is not None:
            bridge = links.bridge_is_ready(self._route, network)
            if bridge is not None:
                with self._database.change():
                    self._firewall.ensure()
                return network, bridge, self._enable(network)
        elif name != DEFAULT_NETWORK:
            raise NotFound("find network", repr(name), "no such network")
        with links.host_network_lock(), self._database.change():
            network = self._choose(name)
            bridge, warnings = self._make(network)
        return network, bridge, [*self._enable(network), *warnings]

    def _make(self, network: NetworkRow) -> tuple[rtnetlink.Link, list[str]]:
        """Write a network down, make its bridge and let it through; within `change` and the host's lock."""
        self._database.put_network(network)
        bridge = links.make_bridge(self._route, network, alias=_ALIAS + self._path)
        self._firewall.replace()
        self._firewall.ensure()
        return bridge, self._firewall.ensure_legacy()

    def _taken(self, name: str, bridge: str) -> list[rtnetlink.Network]:
        """What a network may not overlap: the host's routes and addresses, and our other networks."""
        found = links.taken_subnets(self._route, but_by=bridge)
        for row in self._database.networks():
            if row.name != name:
                found += [row.subnet4, *([row.subnet6] if row.subnet6 is not None else [])]
        return found

    def _subnet6(self, name: str) -> ipaddress.IPv6Network | None:
        if not sysctls.has_ipv6() or not links.host_has_ipv6_address(self._route):
            return None
        return unique_local_subnet(self._path if name == DEFAULT_NETWORK else f"{self._path}\n{name}")

    def _enable(self, network: NetworkRow) -> list[str]:
        warnings = sysctls.enable_ipv4(network.bridge)
        if network.subnet6 is not None:
            warnings += sysctls.enable_ipv6(network.bridge)
        return warnings

    def _choose(self, name: str) -> NetworkRow:
        """The network with a subnet that is free on this host now, which may not be the one it had before a reboot."""
        network = self._database.network(name)
        taken = self._taken(name, network.bridge if network is not None else self.bridge)
        if network is not None and is_free(network.subnet4, taken):
            return network
        if network is not None and name != DEFAULT_NETWORK:
            raise FailedPrecondition(
                "make bridge",
                network.bridge,
                f"the host has another route to {network.subnet4} now",
                hint=f"remove that route, or network {name}",
            )
        for row in self._database.attachments():
            if row.network == name and not os.path.exists(row.netns_path):
                self._database.release(row.sandbox_id)
        if network is not None and any(row.network == name for row in self._database.attachments()):
            raise FailedPrecondition(
                "make bridge",
                self.bridge,
                f"the host has another route to {network.subnet4} now",
                hint="remove that route, or all sandboxes",
            )
        return NetworkRow(name, self.bridge, choose_subnet(taken), self._subnet6(name))

    def _reserve(
        self, network: NetworkRow, wanted: AttachmentRow, bindings: Sequence[Binding], *, chosen: int | None
    ) -> tuple[AttachmentRow, bool]:
        sandbox_id = wanted.sandbox_id
        with self._database.change():
            found = self._database.attachment(sandbox_id)
            if found is not None and found.network != network.name:
                raise FailedPrecondition(
                    "attach sandbox", sandbox_id[:12], f"it is attached to network {found.network}"
                )
            if found is None:
                row = self._database.allocate(network, wanted, chosen=chosen)
            elif chosen not in (None, found.offset):
                raise FailedPrecondition(
                    "attach sandbox", sandbox_id[:12], "it is attached with another address"
                )
            else:
                row = wanted._replace(offset=found.offset, has_ipv6=found.has_ipv6)
                self._database.update_attachment(row)
            held = self._database.bindings(sandbox_id)
            self._database.reserve(sandbox_id, bindings)
            # After the reservation, so that of two sandboxes the second hears of the first, not of its traffic.
            check_free([binding for binding in bindings if binding not in held])
        return row, found is None

    def _publish(self, attached: AttachmentRow, bindings: Sequence[Binding]) -> AttachmentRow:
        with self._database.change():
            self._database.update_attachment(attached)
            gone = [held for held in self._database.bindings(attached.sandbox_id) if held not in bindings]
            if gone:
                self._firewall.remove_ports(self._published(attached, gone))
                self._database.drop_ports(attached.sandbox_id)
                self._database.reserve(attached.sandbox_id, bindings)
            ports = self._published(attached, bindings)
            self._firewall.add_ports(ports)
        self._forget_flows(ports)
        return attached

    def _forget_flows(self, ports: Sequence[PublishedPort]) -> None:
        """Make clients that keep sending from one UDP socket follow a port that was opened or closed.

        The kernel looks into the port maps for the first packet of a flow only, and without a connection a flow has
        no end while packets come.
        """
        udp = [port.binding for port in ports if port.binding.protocol == "udp"]
        if not udp or not sysctls.has_tracked_flows():
            return  # looking for flows takes the kernel some 20 ms, however few there are
        own = {address.interface.ip for address in rtnetlink.list_addresses(self._route)}
        wanted = {
            (address, binding.host_port)
            for binding in udp
            for address in (own if binding.is_any else (ipaddress.ip_address(binding.host_ip),))
            if address.version == binding.version
        }
        for version in {address.version for address, _ in wanted}:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            forget_flows(family, socket.IPPROTO_UDP, lambda address, port: (address, port) in wanted)

    def _ports_of(self, network: NetworkRow) -> list[str]:
        """The links of sandboxes at a network's bridge."""
        bridge = rtnetlink.get_link(self._route, network.bridge)
        if bridge is None:
            return []
        ports = rtnetlink.list_links(self._route, master=bridge.ifindex)
        return [port.name for port in ports if port.kind == "veth" and port.name.startswith("oak")]

    def _delete_orphaned_bridges(self) -> None:
        """Delete bridges without ports whose store is gone from the disk; one that is wanted again is made again."""
        found = rtnetlink.list_links(self._route)
        masters = {link.master for link in found}
        for link in found:
            store = link.alias.removeprefix(_ALIAS)
            if link.kind != "bridge" or store == link.alias or link.ifindex in masters:
                continue
            if not os.path.exists(store):
                orphan = Firewall(link.name, lambda: ((), ()), lambda: self._database)
                try:
                    orphan.remove()
                finally:
                    orphan.close()
                self._route.execute([rtnetlink.delete_link(link.name)])


def _link_plan(network: NetworkRow, attached: AttachmentRow, bridge_index: int) -> links.LinkPlan:
    subnet6 = network.subnet6
    return links.LinkPlan(
        attached.host_interface,
        bridge_index,
        attached.mtu,
        links.interface_at(network.subnet4, attached.offset),
        links.interface_at(subnet6, attached.offset) if subnet6 is not None else None,
        links.interface_at(network.subnet4, 1).ip,
        links.interface_at(subnet6, 1).ip if subnet6 is not None else None,
        attached.mac,
        attached.ingress,
        attached.egress,
    )


def _inform(row: NetworkRow, route: NetlinkSocket, attached: Sequence[str]) -> NetworkInfo:
    bridge = rtnetlink.get_link(route, row.bridge)
    subnets: list[rtnetlink.Network] = [row.subnet4]
    if row.subnet6 is not None:
        subnets.append(row.subnet6)
    return NetworkInfo(
        row.name,
        "bridge",
        tuple(map(str, subnets)),
        tuple(str(links.interface_at(subnet, 1).ip) for subnet in subnets),
        row.bridge,
        bridge.mtu if bridge is not None else row.mtu,
        row.internal,
        tuple(attached),
    )


def _describe(network: NetworkRow, row: AttachmentRow, warnings: tuple[str, ...] = ()) -> Attachment:
    plan = _link_plan(network, row, 0)
    inner = [plan.address4]
    gateways = [str(plan.gateway4)]
    if row.has_ipv6 and plan.address6 is not None:
        inner.append(plan.address6)
        gateways.append(str(plan.gateway6))
    return Attachment(
        row.sandbox_id,
        row.network,
        row.netns_path,
        row.host_interface,
        tuple(str(address.ip) for address in inner),
        tuple(address.network.prefixlen for address in inner),
        tuple(gateways),
        plan.mac,
        row.mtu,
        hostname=row.hostname,
        warnings=warnings,
    )


def _seen_from_inside(stats: rtnetlink.LinkStats) -> InterfaceCounters:
    """What the host's end sent is what the sandbox received."""
    return InterfaceCounters(
        INTERFACE,
        rx_bytes=stats.tx_bytes,
        rx_errors=stats.tx_errors,
        tx_bytes=stats.rx_bytes,
        tx_errors=stats.rx_errors,
        rx_packets=stats.tx_packets,
        tx_packets=stats.rx_packets,
        rx_dropped=stats.tx_dropped,
        tx_dropped=stats.rx_dropped,
    )
