# SPDX-License-Identifier: Apache-2.0
"""What the halves of the built-in network share: its database, its connection to the kernel, its firewall.

Owns construction, and what the firewall is to hold according to the database.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Final

from oakum.errors import InvalidArgument
from oakum.linux.netlink import NetlinkSocket
from oakum.network import links
from oakum.network.database import AttachmentRow, NetworkDatabase, NetworkRow, PublishedPort
from oakum.network.firewall import Firewall
from oakum.network.ports import Binding

_SUFFIX: Final = re.compile(r"[a-z0-9]{0,8}", re.ASCII)


class Parts:
    """The parts of one ROOT's networks, each opened at its first use; `guard` is held by who uses them."""

    def __init__(self, path: str, name_suffix: str) -> None:
        """See `BuiltinNetwork`. Raises InvalidArgument."""
        if not _SUFFIX.fullmatch(name_suffix):
            raise InvalidArgument("open network", repr(name_suffix), "not a suffix for interface names")
        self.path = path
        self.bridge = f"oakum-{name_suffix}" if name_suffix else "oakum0"
        self.table = self.bridge
        self.guard = threading.RLock()
        self.firewall = Firewall(self.table, self._firewall_state, lambda: self.database)
        self._database: NetworkDatabase | None = None
        self._route: NetlinkSocket | None = None

    @property
    def database(self) -> NetworkDatabase:
        """network.db."""
        if self._database is None:
            self._database = NetworkDatabase(self.path)
        return self._database

    @property
    def route(self) -> NetlinkSocket:
        """The host's links, addresses and routes."""
        if self._route is None:
            self._route = NetlinkSocket()
        return self._route

    def close(self) -> None:
        """Close what is open; networks and attachments stay."""
        with self.guard:
            self.firewall.close()
            if self._route is not None:
                self._route.close()
                self._route = None
            if self._database is not None:
                self._database.close()
                self._database = None

    def _firewall_state(self) -> tuple[list[NetworkRow], list[PublishedPort]]:
        networks = self.database.networks()
        by_sandbox: dict[str, list[AttachmentRow]] = {}
        for row in self.database.attachments():
            by_sandbox.setdefault(row.sandbox_id, []).append(row)
        ports: list[PublishedPort] = []
        for sandbox_id, rows in by_sandbox.items():
            ports += self._lead_to(rows, self.database.bindings(sandbox_id), networks)
        return networks, ports

    def published(self, sandbox_id: str) -> list[PublishedPort]:
        """A sandbox's host ports and where they lead."""
        bindings = self.database.bindings(sandbox_id)
        if not bindings:
            return []
        return self._lead_to(self.database.attachments_of(sandbox_id), bindings, self.database.networks())

    def relayed(self, sandbox_id: str) -> list[tuple[Binding, tuple[str, ...]]]:
        """A sandbox's ports on ::1, and its addresses, IPv6 first where it has it."""
        bindings = [binding for binding in self.database.bindings(sandbox_id) if binding.is_relayed]
        if not bindings:
            return []
        addresses = self._addresses(self.database.attachments_of(sandbox_id), self.database.networks())
        targets = tuple(addresses[version] for version in (6, 4) if version in addresses)
        return [(binding, targets) for binding in bindings]

    def leader(self, rows: Sequence[AttachmentRow], version: int) -> AttachmentRow | None:
        """Which of a sandbox's places everything else goes through, in one family."""
        return _leader(rows, version, {network.name: network for network in self.database.networks()})

    def _lead_to(
        self, rows: Sequence[AttachmentRow], bindings: Sequence[Binding], networks: Sequence[NetworkRow]
    ) -> list[PublishedPort]:
        by_version = self._addresses(rows, networks)
        return [
            PublishedPort(binding, by_version[binding.version])
            for binding in bindings
            if binding.version in by_version and not binding.is_relayed
        ]

    def _addresses(self, rows: Sequence[AttachmentRow], networks: Sequence[NetworkRow]) -> dict[int, str]:
        """Where ports lead, for each family that a sandbox has."""
        by_name = {network.name: network for network in networks}
        by_version: dict[int, str] = {}
        for version in (4, 6):
            leader = _leader(rows, version, by_name)
            if leader is not None:
                network = by_name[leader.network]
                subnet = network.subnet4 if version == 4 else network.subnet6
                if subnet is not None:
                    by_version[version] = str(links.interface_at(subnet, leader.offset).ip)
        return by_version


def _leader(
    rows: Sequence[AttachmentRow], version: int, networks: dict[str, NetworkRow]
) -> AttachmentRow | None:
    able = [row for row in rows if version == 4 or row.has_ipv6]
    return next((row for row in able if not networks[row.network].internal), able[0] if able else None)
