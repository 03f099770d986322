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
        ports: list[PublishedPort] = []
        for row in self.database.attachments():
            ports += self.published(row, self.database.bindings(row.sandbox_id))
        return self.database.networks(), ports

    def published(self, attached: AttachmentRow, bindings: Sequence[Binding]) -> list[PublishedPort]:
        """Where host ports of a sandbox lead."""
        network = self.database.network(attached.network)
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
