# SPDX-License-Identifier: Apache-2.0
"""The built-in network: a bridge with addresses from a pool, the way out, and host ports.

The host side is the network namespace of the calling thread. What is told to the kernel follows from network.db, so
that any process can complete or undo what a killed one began: addresses and ports are reserved first, links and
rules follow, and all of it may be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Unpack

from oakum.errors import OakumError
from oakum.linux import rtnetlink
from oakum.network.attachment import (
    Attachment,
    AttachmentOptions,
    InterfaceCounters,
)
from oakum.network.bridges import Bridges
from oakum.network.database import AttachmentRow, Due, NetworkDatabase, NetworkRow
from oakum.network.leaving import Leaving
from oakum.network.names import Neighbour, render
from oakum.network.parts import Parts
from oakum.network.places import Places, Request, describe
from oakum.network.ports import Binding
from oakum.network.protocol import DEFAULT_NETWORK, Network, NetworkInfo, Wishes


class BuiltinNetwork(Network):
    """The networks of one ROOT. Safe from many threads and processes at once."""

    def __init__(self, database: str, *, name_suffix: str = "") -> None:
        """Use the database at the absolute path `database`; nothing is opened yet.

        `name_suffix` (at most eight letters and digits) tells this ROOT's bridge and table from those of others on
        the machine. Raises InvalidArgument.
        """
        self._parts = Parts(database, name_suffix)
        self._bridges = Bridges(self._parts)
        self._leaving = Leaving(self._parts)
        self._places = Places(self._parts, self._bridges, self._leaving)
        self._guard = self._parts.guard
        self.bridge = self._parts.bridge
        self.table = self._parts.table

    def close(self) -> None:
        """Close what is open; networks and attachments stay."""
        self._leaving.close()
        self._parts.close()

    # Sandboxes

    def begin(self, sandbox_id: str, netns_path: str, **wishes: Unpack[Wishes]) -> Callable[[], Attachment]:
        """Reserve addresses and ports, for which the namespace need not be there yet; the call that does the rest.

        That gives the namespace address, routes, way out, host ports. Where it is not called, `teardown` lets go. May be
        repeated. Of the options, addresses, MAC, rates and names count here.

        Raises:
            AlreadyExists: a host port or address is taken, by a process of the host or by another sandbox.
            InvalidArgument: a port, address or MAC that is none.
            NotFound: no such network.
            ResourceExhausted: no address is left.
            SystemFailure: the kernel refuses; nothing is left attached.
        """
        with self._guard:
            complete = self._places.begin(Request(sandbox_id, netns_path, **wishes))

        def attach() -> Attachment:
            with self._guard:
                return complete()

        return attach

    def connect(
        self,
        sandbox_id: str,
        netns_path: str,
        *,
        network: str,
        hostname: str = "",
        options: AttachmentOptions = AttachmentOptions(),  # noqa: B008 - immutable
    ) -> Attachment:
        """Attach a sandbox to a further network, with an interface of its own. May be repeated. Raises as `setup`."""
        with self._guard:
            return self._places.begin(Request(sandbox_id, netns_path, network, None, hostname, options))()

    def disconnect(self, sandbox_id: str, network: str) -> bool:
        """Detach a sandbox from one network, its interface included; whether it was attached. Raises SystemFailure."""
        with self._guard:
            return self._places.leave(sandbox_id, network)

    def teardown(self, sandbox_id: str) -> None:
        """Detach a sandbox: its addresses and ports are free for others. Succeeds for what is gone.

        The links are not deleted here, which would take the kernel some 15 ms: they go with the namespace. Where
        something keeps that, a thread deletes them some seconds later, or the next process does. Raises SystemFailure.
        """
        with self._guard:
            self._places.give_back(sandbox_id)

    def abandon(self, sandbox_id: str) -> None:
        """As `teardown`, which has nothing that could be put off. Raises SystemFailure."""
        self.teardown(sandbox_id)

    def needs_namespace(self, sandbox_id: str) -> bool:  # noqa: ARG002 - as the protocol has it
        """Nothing is looked for in a sandbox that leaves."""
        return False

    def attachment(self, sandbox_id: str) -> Attachment | None:
        """A sandbox's oldest attachment; None when it has none. Raises SystemFailure."""
        return next(iter(self.attachments_of(sandbox_id)), None)

    def attachments_of(self, sandbox_id: str) -> list[Attachment]:
        """A sandbox's attachments, the oldest first. Raises SystemFailure."""
        with self._guard:
            return self._describe(self._database.attachments_of(sandbox_id))

    def attachments(self) -> list[Attachment]:
        """All attachments. Raises SystemFailure."""
        with self._guard:
            return self._describe(self._database.attachments())

    def _describe(self, rows: Sequence[AttachmentRow]) -> list[Attachment]:
        networks = {network.name: network for network in self._database.networks()} if rows else {}
        return [describe(networks[row.network], row) for row in rows]

    def published(self, sandbox_id: str) -> list[Binding]:
        """The host ports of a sandbox. Raises SystemFailure."""
        with self._guard:
            return self._database.bindings(sandbox_id)

    def relayed(self, sandbox_id: str) -> list[tuple[Binding, tuple[str, ...]]]:
        """A sandbox's ports on ::1, and the addresses that somebody has to carry them to. Raises SystemFailure."""
        with self._guard:
            return self._parts.relayed(sandbox_id)

    def has_way_out(self, sandbox_id: str) -> bool:
        """Whether a sandbox is in a network that is not internal. Raises SystemFailure."""
        with self._guard:
            internal = {network.name: network.internal for network in self._database.networks()}
            return any(not internal[row.network] for row in self._database.attachments_of(sandbox_id))

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """The traffic of a sandbox as seen from inside; None when it is not attached. Raises SystemFailure."""
        with self._guard:
            row = self._database.attachment(sandbox_id)
            if row is None:
                return None
            link = rtnetlink.get_link(self._parts.route, row.host_interface, stats=True)
            return _seen_from_inside(link.stats, row.interface) if link is not None else None

    def usages(self) -> dict[str, InterfaceCounters]:
        """The traffic of all attached sandboxes in one pass. Raises SystemFailure."""
        with self._guard:
            first: dict[str, AttachmentRow] = {}
            for row in self._database.attachments():
                first.setdefault(row.sandbox_id, row)
            rows = {row.host_interface: row for row in first.values()}
            return {
                row.sandbox_id: _seen_from_inside(link.stats, row.interface)
                for link in rtnetlink.list_links(self._parts.route, stats=True)
                if (row := rows.get(link.name)) is not None
            }

    # Names, and what is owed to sandboxes

    def name_lines(self, sandbox_id: str, taken: Collection[str] = ()) -> list[str] | None:
        """The lines for a sandbox's hosts file, without names of others in `taken`; None where it has no names.

        Raises SystemFailure.
        """
        with self._guard:
            rows = [row for row in self._database.attachments_of(sandbox_id) if row.names]
            found: list[Neighbour] = []
            for row in rows:
                shared = row.network != DEFAULT_NETWORK
                group = self._database.attachments_to(row.network) if shared else [row]
                found += [
                    Neighbour(
                        each.network, each.addresses, each.names, each.aliases, each.sandbox_id == sandbox_id
                    )
                    for each in self._describe(group)
                    if each.names
                ]
        return render(found, taken) if rows else None

    def rename(self, sandbox_id: str, names: Sequence[str]) -> None:
        """Have the others of its networks find a sandbox by `names`. Raises InvalidArgument, SystemFailure."""
        with self._guard:
            self._places.rename(sandbox_id, names)

    def owe(self, sandbox_id: str, what: str) -> None:
        """Note that a sandbox's "names" or "networks" (see `due`) have to be looked after. Raises SystemFailure."""
        with self._guard, self._database.change():
            self._database.owe(sandbox_id, what)

    def due(self, what: str) -> list[Due]:
        """What is owed of one kind. Raises SystemFailure."""
        with self._guard:
            return self._database.due(what)

    def settle(self, done: Sequence[Due]) -> None:
        """Forget what was owed, but for what came to be owed once more since. Raises SystemFailure."""
        if done:
            with self._guard, self._database.change():
                for each in done:
                    self._database.settle(each)

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
            self._bridges.restore()
            kept = {row.host_interface for row in self._database.attachments()}
            stale = [
                name for network in networks for name in self._bridges.ports_of(network) if name not in kept
            ]
        for name in stale:
            # One by one, since each takes the kernel some 15 ms and sandboxes that start meanwhile are not to wait.
            with self._guard, self._database.change():
                if name not in {row.host_interface for row in self._database.attachments()}:
                    self._parts.route.execute([rtnetlink.delete_link(name)])
        self._leaving.sweep(delete_after_s=0)
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


def _seen_from_inside(stats: rtnetlink.LinkStats, interface: str) -> InterfaceCounters:
    """What the host's end sent is what the sandbox received."""
    return InterfaceCounters(
        interface,
        rx_bytes=stats.tx_bytes,
        rx_errors=stats.tx_errors,
        tx_bytes=stats.rx_bytes,
        tx_errors=stats.rx_errors,
        rx_packets=stats.tx_packets,
        tx_packets=stats.rx_packets,
        rx_dropped=stats.tx_dropped,
        tx_dropped=stats.rx_dropped,
    )
