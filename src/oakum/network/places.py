# SPDX-License-Identifier: Apache-2.0
"""Sandboxes' places in built-in networks: taken, completed, changed and given back.

Each place is an interface. The oldest one in a network with a way out leads: everything else goes through its gateway,
and host ports lead to its address, for each family by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from oakum.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from oakum.linux import rtnetlink
from oakum.linux.netns import open_netns
from oakum.network import links
from oakum.network.attachment import Attachment, AttachmentOptions, PortRequest
from oakum.network.bridges import Bridges
from oakum.network.database import AttachmentRow, NetworkDatabase, NetworkRow
from oakum.network.due import NAMES
from oakum.network.flows import forget_flows_to
from oakum.network.leaving import Leaving
from oakum.network.names import check_names
from oakum.network.parts import Parts
from oakum.network.pool import check_mac, free_interface, host_interface_of, offset_of
from oakum.network.ports import Binding, check_free, plan_bindings
from oakum.network.protocol import DEFAULT_NETWORK


class Request(NamedTuple):
    """A place that a sandbox wants; `port_mappings` is None for a further one, which brings none."""

    sandbox_id: str
    netns_path: str
    network: str = DEFAULT_NETWORK
    port_mappings: Sequence[PortRequest] | None = ()
    hostname: str = ""
    options: AttachmentOptions = AttachmentOptions()


class Places:
    """The places in the networks of one ROOT; the caller holds the guard of `parts`."""

    def __init__(self, parts: Parts, bridges: Bridges, leaving: Leaving) -> None:
        self._parts = parts
        self._leaving = leaving
        self._bridges = bridges

    @property
    def _database(self) -> NetworkDatabase:
        return self._parts.database

    def begin(self, request: Request) -> Callable[[], Attachment]:
        """Reserve a place, which takes no namespace; the rest is done by what is returned.

        Raises as `BuiltinNetwork.begin`.
        """
        options = request.options
        check_mac(options.mac)
        check_names((*options.names, *options.aliases), shared=request.network != DEFAULT_NETWORK)
        network, bridge, warnings = self._bridges.ensure(request.network)
        self._leaving.look()
        bindings: Sequence[Binding] | None = None
        if request.port_mappings is not None:
            bindings = plan_bindings(
                request.port_mappings, with_ipv6=network.subnet6 is not None, with_relay=options.relay
            )
        wanted = AttachmentRow(
            request.sandbox_id,
            network.name,
            request.netns_path,
            request.hostname,
            "",
            0,
            bridge.mtu,
            has_ipv6=False,
            mac=options.mac.lower(),
            ingress=options.ingress_bits_per_s,
            egress=options.egress_bits_per_s,
            names=" ".join(options.names),
            aliases=" ".join(options.aliases),
        )
        chosen = offset_of(options.addresses, network.subnet4, network.subnet6)
        row, is_new = self._reserve(network, wanted, bindings, chosen=chosen)

        @contextmanager
        def all_or_nothing() -> Generator[None]:
            try:
                yield
            except BaseException:  # Ctrl-C as well: who asked for nothing keeps nothing
                if is_new and bindings is not None:
                    self.give_back(request.sandbox_id)
                elif is_new:
                    self.leave(request.sandbox_id, network.name)
                raise

        with all_or_nothing():
            plan = self._plan(network, row, bridge.ifindex)

        def complete() -> Attachment:
            with all_or_nothing():
                completed = self._complete(plan, row, bindings)
            return describe(network, completed, tuple(warnings))

        return complete

    def _complete(
        self, plan: links.LinkPlan, row: AttachmentRow, bindings: Sequence[Binding] | None
    ) -> AttachmentRow:
        with open_netns(row.netns_path) as netns:
            has_ipv6 = links.connect(
                self._parts.route, plan, netns_fd=netns.fileno(), netns_path=row.netns_path
            )
        row = row._replace(has_ipv6=has_ipv6)
        self._publish(row, bindings)
        return row

    def _plan(self, network: NetworkRow, row: AttachmentRow, bridge_index: int) -> links.LinkPlan:
        """The link to make; whether it leads counts IPv6 as there where the network has it."""
        plan = link_plan(network, row, bridge_index)
        rows = self._database.attachments_of(row.sandbox_id)
        if len(rows) == 1:
            return plan
        expected = [
            each._replace(has_ipv6=network.subnet6 is not None) if each.network == row.network else each
            for each in rows
        ]
        leaders = [self._parts.leader(expected, version) for version in (4, 6)]
        leads4, leads6 = (leader is not None and leader.network == row.network for leader in leaders)
        return plan._replace(leads4=leads4, leads6=leads6)

    def _reserve(
        self,
        network: NetworkRow,
        wanted: AttachmentRow,
        bindings: Sequence[Binding] | None,
        *,
        chosen: int | None,
    ) -> tuple[AttachmentRow, bool]:
        sandbox_id = wanted.sandbox_id
        with self._database.change():
            rows = self._database.attachments_of(sandbox_id)
            found = next((row for row in rows if row.network == network.name), None)
            if found is None and rows and bindings is not None:
                raise FailedPrecondition(
                    "attach sandbox", sandbox_id[:12], f"it is attached to network {rows[0].network}"
                )
            if found is None:
                interface = free_interface({row.interface for row in rows})
                wanted = wanted._replace(
                    interface=interface,
                    host_interface=host_interface_of(self._parts.table, sandbox_id, interface),
                )
                row = self._allocate(network, wanted, chosen)
            elif chosen not in (None, found.offset):
                raise FailedPrecondition(
                    "attach sandbox", sandbox_id[:12], "it is attached with another address"
                )
            else:
                row = wanted._replace(
                    offset=found.offset,
                    has_ipv6=found.has_ipv6,
                    interface=found.interface,
                    host_interface=found.host_interface,
                )
                self._database.update_attachment(row)
            if bindings is not None:
                held = self._database.bindings(sandbox_id)
                self._database.reserve(sandbox_id, bindings)
                # After the reservation, so that of two sandboxes the second hears of the first, not of its traffic.
                check_free([binding for binding in bindings if binding not in held])
        return row, found is None

    def _allocate(self, network: NetworkRow, wanted: AttachmentRow, chosen: int | None) -> AttachmentRow:
        try:
            return self._database.allocate(network, wanted, chosen=chosen)
        except (AlreadyExists, ResourceExhausted):
            if not self._leaving.make_room(network.name, chosen):
                raise
            return self._database.allocate(network, wanted, chosen=chosen)

    def _publish(self, row: AttachmentRow, bindings: Sequence[Binding] | None) -> None:
        """Have what is outside the sandbox know of its place: ports, and names."""
        with self._republishing(row.sandbox_id):
            self._database.update_attachment(row)
            self._database.come_back(row.host_interface)
            if bindings is not None and any(
                held not in bindings for held in self._database.bindings(row.sandbox_id)
            ):
                self._database.drop_ports(row.sandbox_id)
                self._database.reserve(row.sandbox_id, bindings)
            if row.network != DEFAULT_NETWORK or bindings is None:
                self._owe_names(row)

    @contextmanager
    def _republishing(self, sandbox_id: str) -> Generator[None]:
        """A change of the database, after which a sandbox's host ports lead where it says, and nobody elsewhere."""
        with self._database.change():
            before = self._parts.published(sandbox_id)
            yield
            after = self._parts.published(sandbox_id)
            self._parts.firewall.remove_ports([port for port in before if port not in after])
            self._parts.firewall.add_ports(after)
        forget_flows_to(self._parts.route, [*before, *after])

    def _owe_names(self, row: AttachmentRow) -> None:
        """Have the hosts files written of all who are to know that this place is taken or free; within `change`."""
        if not row.names:
            return
        self._database.owe(row.sandbox_id, NAMES)
        if row.network != DEFAULT_NETWORK:
            for each in self._database.attachments_to(row.network):
                if each.names and each.sandbox_id != row.sandbox_id:
                    self._database.owe(each.sandbox_id, NAMES)

    def leave(self, sandbox_id: str, network: str) -> bool:
        """Give one place back, with its interface; whether there was one. What led leads to the next."""
        row = self._row(sandbox_id, network)
        if row is None:
            return False
        # First the link, then the address: nobody else may get one that is still in use.
        self._parts.route.execute([rtnetlink.delete_link(row.host_interface)])
        with self._republishing(sandbox_id):
            self._owe_names(row)
            self._database.leave(sandbox_id, network)
        self._lead(sandbox_id)
        return True

    def _row(self, sandbox_id: str, network: str) -> AttachmentRow | None:
        rows = self._database.attachments_of(sandbox_id)
        return next((row for row in rows if row.network == network), None)

    def _lead(self, sandbox_id: str) -> None:
        """Set the default routes of a sandbox anew."""
        rows = self._database.attachments_of(sandbox_id)
        gateways: list[tuple[str, rtnetlink.Address]] = []
        for version in (4, 6):
            leader = self._parts.leader(rows, version)
            network = self._database.network(leader.network) if leader is not None else None
            if leader is None or network is None:
                continue
            plan = link_plan(network, leader, 0)
            gateway = plan.gateway4 if version == 4 else plan.gateway6
            if gateway is not None:
                gateways.append((leader.interface, gateway))
        if gateways and os.path.exists(rows[0].netns_path):
            with open_netns(rows[0].netns_path) as netns:
                links.lead(gateways, netns_fd=netns.fileno(), netns_path=rows[0].netns_path)

    def give_back(self, sandbox_id: str) -> None:
        """Give back all of a sandbox's places and ports; its links are seen off later. Raises SystemFailure."""
        if not self._database.knows(sandbox_id):
            return
        with self._republishing(sandbox_id):
            rows = self._database.attachments_of(sandbox_id)
            for row in rows:
                self._owe_names(row)
            self._database.release(sandbox_id)
        if rows:
            self._leaving.wake()

    def rename(self, sandbox_id: str, names: Sequence[str]) -> None:
        """Call a sandbox otherwise, in all its places that had names."""
        text = " ".join(names)
        with self._database.change():
            for row in self._database.attachments_of(sandbox_id):
                check_names(names, shared=row.network != DEFAULT_NETWORK)
                if row.names and row.names != text:
                    self._database.update_attachment(row._replace(names=text))
                    self._owe_names(row)


def link_plan(network: NetworkRow, row: AttachmentRow, bridge_index: int) -> links.LinkPlan:
    """What a place's link is to be like."""
    subnet6 = network.subnet6
    return links.LinkPlan(
        row.host_interface,
        bridge_index,
        row.mtu,
        links.interface_at(network.subnet4, row.offset),
        links.interface_at(subnet6, row.offset) if subnet6 is not None else None,
        links.interface_at(network.subnet4, 1).ip,
        links.interface_at(subnet6, 1).ip if subnet6 is not None else None,
        row.mac,
        row.ingress,
        row.egress,
        row.interface,
    )


def describe(network: NetworkRow, row: AttachmentRow, warnings: tuple[str, ...] = ()) -> Attachment:
    """A place for those outside."""
    plan = link_plan(network, row, 0)
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
        row.interface,
        hostname=row.hostname,
        warnings=warnings,
        names=tuple(row.names.split()),
        aliases=tuple(row.aliases.split()),
    )
