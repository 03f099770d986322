# SPDX-License-Identifier: Apache-2.0
"""The built-in network: a bridge with addresses from a pool, the way out, and host ports.

The host side is the network namespace of the calling thread. What is told to the kernel follows from network.db, so
that any process can complete or undo what a killed one began: addresses and ports are reserved first, links and
rules follow, and all of it may be done again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from oakum.errors import FailedPrecondition, OakumError
from oakum.linux import rtnetlink
from oakum.linux.netns import open_netns
from oakum.network import links
from oakum.network.attachment import (
    INTERFACE,
    Attachment,
    AttachmentOptions,
    InterfaceCounters,
    PortRequest,
)
from oakum.network.bridges import Bridges
from oakum.network.database import AttachmentRow, NetworkDatabase, NetworkRow
from oakum.network.flows import forget_flows_to
from oakum.network.parts import Parts
from oakum.network.pool import (
    check_mac,
    host_interface_of,
    offset_of,
)
from oakum.network.ports import Binding, check_free, plan_bindings
from oakum.network.protocol import DEFAULT_NETWORK, NetworkInfo


class BuiltinNetwork:
    """The networks of one ROOT. Safe from many threads and processes at once."""

    def __init__(self, database: str, *, name_suffix: str = "") -> None:
        """Use the database at the absolute path `database`; nothing is opened yet.

        `name_suffix` (at most eight letters and digits) tells this ROOT's bridge and table from those of others on
        the machine. Raises InvalidArgument.
        """
        self._parts = Parts(database, name_suffix)
        self._bridges = Bridges(self._parts)
        self._guard = self._parts.guard
        self.bridge = self._parts.bridge
        self.table = self._parts.table

    def close(self) -> None:
        """Close what is open; networks and attachments stay."""
        self._parts.close()

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
            row, bridge, warnings = self._bridges.ensure(network)
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
                has_ipv6 = links.connect(
                    self._parts.route, plan, netns_fd=netns.fileno(), netns_path=netns_path
                )
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
                ports = self._parts.published(attached, self._database.bindings(sandbox_id))
                self._database.release(sandbox_id)
                self._parts.firewall.remove_ports(ports)
            forget_flows_to(self._parts.route, ports)

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
            link = rtnetlink.get_link(
                self._parts.route, host_interface_of(self.table, sandbox_id), stats=True
            )
            return _seen_from_inside(link.stats) if link is not None else None

    def usages(self) -> dict[str, InterfaceCounters]:
        """The traffic of all attached sandboxes in one pass. Raises SystemFailure."""
        with self._guard:
            names = {row.host_interface: row.sandbox_id for row in self._database.attachments()}
            return {
                names[link.name]: _seen_from_inside(link.stats)
                for link in rtnetlink.list_links(self._parts.route, stats=True)
                if link.name in names
            }

    # Networks

    def networks(self) -> list[NetworkRow]:
        """All networks that were used. Raises SystemFailure."""
        with self._guard:
            return self._database.networks()

    def list_networks(self) -> list[NetworkInfo]:
        """All networks, and the default one even if it was not used yet. Raises SystemFailure."""
        return self._bridges.list()

    def has_network(self, name: str) -> bool:
        """Whether a network has been made under this name. Raises SystemFailure."""
        return self._bridges.has(name)

    def create_network(
        self, name: str, *, subnets: Sequence[str] = (), mtu: int = 0, internal: bool = False
    ) -> NetworkInfo:
        """Make a network with a bridge and a pool of its own; what is not said is chosen.

        Raises:
            AlreadyExists: the name or the subnet is taken.
            InvalidArgument: a name, subnet or MTU that cannot be.
        """
        return self._bridges.create(name, subnets=subnets, mtu=mtu, internal=internal)

    def remove_network(self, name: str = DEFAULT_NETWORK) -> None:
        """Remove a network's bridge, and with the last network all our rules; succeeds for what is gone.

        The default network comes back with the next `setup`. Raises FailedPrecondition while a sandbox is attached.
        """
        self._bridges.remove(name)

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
                    self._parts.firewall.replace()
                    self._parts.firewall.ensure()
            kept = {row.host_interface for row in self._database.attachments()}
            stale = [
                name for network in networks for name in self._bridges.ports_of(network) if name not in kept
            ]
        for name in stale:
            # One by one, since each takes the kernel some 15 ms and sandboxes that start meanwhile are not to wait.
            with self._guard, self._database.change():
                if name not in {row.host_interface for row in self._database.attachments()}:
                    self._parts.route.execute([rtnetlink.delete_link(name)])
        with self._guard:
            self._bridges.delete_orphans()
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
                found += self._bridges.enable(network)
            return found + self._parts.firewall.warnings()

    # Steps

    @property
    def _database(self) -> NetworkDatabase:
        return self._parts.database

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
                self._parts.firewall.remove_ports(self._parts.published(attached, gone))
                self._database.drop_ports(attached.sandbox_id)
                self._database.reserve(attached.sandbox_id, bindings)
            ports = self._parts.published(attached, bindings)
            self._parts.firewall.add_ports(ports)
        forget_flows_to(self._parts.route, ports)
        return attached


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
