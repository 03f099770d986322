# SPDX-License-Identifier: Apache-2.0
"""The built-in networks themselves: bridges with subnets, made, completed, listed and removed. Knows no sandboxes."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from typing import Final

from oakum.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from oakum.linux import rtnetlink
from oakum.linux.netlink import NetlinkSocket
from oakum.network import links, sysctls
from oakum.network.database import NetworkRow
from oakum.network.firewall import Firewall
from oakum.network.parts import Parts
from oakum.network.pool import bridge_of, choose_subnet, is_free, parse_subnets, unique_local_subnet
from oakum.network.protocol import DEFAULT_NETWORK, NetworkInfo

_ALIAS: Final = "oakum network "
_NETWORK_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", re.ASCII)
# Words that mean something else where a network is named.
_NO_NAMES: Final = frozenset({"host", "none", "container"})
# The least that IPv4 and IPv6 need, and the most that a frame can say (RFC 791, RFC 8200).
_MTU_RANGE4: Final = (68, 65535)
_LEAST_MTU6: Final = 1280


class Bridges:
    """The networks of one ROOT; see `builtin` for what they are for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def list(self) -> list[NetworkInfo]:
        """All networks, and the default one even if it was not used yet. Raises SystemFailure."""
        with self._parts.guard:
            rows = self._parts.database.networks() if os.path.exists(self._parts.path) else []
            users: dict[str, list[str]] = {row.name: [] for row in rows}
            for attached in self._parts.database.attachments() if rows else ():
                users[attached.network].append(attached.sandbox_id)
            rows.sort(key=lambda row: row.name != DEFAULT_NETWORK)
            found = [_inform(row, self._parts.route, users[row.name]) for row in rows]
        if DEFAULT_NETWORK not in users:
            found.insert(0, NetworkInfo(DEFAULT_NETWORK, "bridge", bridge=self._parts.bridge))
        return found

    def has(self, name: str) -> bool:
        """Whether a network has been made under this name. Raises SystemFailure."""
        with self._parts.guard:
            return os.path.exists(self._parts.path) and self._parts.database.network(name) is not None

    def create(
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
        with self._parts.guard, links.host_network_lock(), self._parts.database.change():
            if self._parts.database.network(name) is not None:
                raise AlreadyExists("create network", repr(name), "it is there", hint="oakum network ls")
            bridge = self._parts.bridge if name == DEFAULT_NETWORK else bridge_of(self._parts.table, name)
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
            return _inform(row, self._parts.route, ())

    def remove(self, name: str = DEFAULT_NETWORK) -> None:
        """Remove a network's bridge, and with the last network all our rules; succeeds for what is gone.

        The default network comes back with the next `setup`. Raises FailedPrecondition while a sandbox is attached.
        """
        with self._parts.guard, self._parts.database.change():
            network = self._parts.database.network(name)
            if network is None:
                return
            users = self._parts.database.attachments_to(network.name)
            if users:
                who = f"sandbox {users[0].sandbox_id[:12]} is attached"
                if users[0].names:
                    who = f"container {users[0].names.split()[1]} is connected to it"
                more = f", and {len(users) - 1} more" if len(users) > 1 else ""
                raise FailedPrecondition("remove network", name, f"{who}{more}")
            if len(self._parts.database.networks()) == 1:
                self._parts.firewall.remove()
            leaving = [row.host_interface for row in self._parts.database.leaving() if row.network == name]
            for link in (*self.ports_of(network), *leaving, network.bridge):
                self._parts.route.execute([rtnetlink.delete_link(link)])
            self._parts.database.drop_network(name)
            if self._parts.database.networks():
                self._parts.firewall.forget_bridge(network.bridge)

    def ensure(self, name: str) -> tuple[NetworkRow, rtnetlink.Link, list[str]]:
        """A network and its bridge, made where it is missing, with our rules in force; warnings.

        Raises:
            NotFound: no such network.
            SystemFailure: the kernel refuses.
        """
        network = self._parts.database.network(name)
        if network is not None:
            bridge = links.bridge_is_ready(self._parts.route, network)
            if bridge is not None:
                with self._parts.database.change():
                    self._parts.firewall.ensure()
                return network, bridge, self.enable(network)
        elif name != DEFAULT_NETWORK:
            raise NotFound("find network", repr(name), "no such network")
        with links.host_network_lock(), self._parts.database.change():
            network = self._choose(name)
            bridge, warnings = self._make(network)
        return network, bridge, [*self.enable(network), *warnings]

    def restore(self) -> None:
        """Make bridges that somebody deleted under sandboxes. Raises OakumError."""
        for network in self._parts.database.networks():
            if self._parts.database.attachments_to(network.name):
                self.ensure(network.name)

    def _make(self, network: NetworkRow) -> tuple[rtnetlink.Link, list[str]]:
        """Write a network down, make its bridge and let it through; within `change` and the host's lock."""
        self._parts.database.put_network(network)
        bridge = links.make_bridge(self._parts.route, network, alias=_ALIAS + self._parts.path)
        attached = self._parts.database.attachments_to(network.name)
        if attached:
            links.rejoin(self._parts.route, bridge, {row.host_interface for row in attached})
        self._parts.firewall.replace()
        self._parts.firewall.ensure()
        return bridge, self._parts.firewall.ensure_legacy()

    def _taken(self, name: str, bridge: str) -> list[rtnetlink.Network]:
        """What a network may not overlap: the host's routes and addresses, and our other networks."""
        found = links.taken_subnets(self._parts.route, but_by=bridge)
        for row in self._parts.database.networks():
            if row.name != name:
                found += [row.subnet4, *([row.subnet6] if row.subnet6 is not None else [])]
        return found

    def _subnet6(self, name: str) -> ipaddress.IPv6Network | None:
        if not sysctls.has_ipv6() or not links.host_has_ipv6_address(self._parts.route):
            return None
        return unique_local_subnet(
            self._parts.path if name == DEFAULT_NETWORK else f"{self._parts.path}\n{name}"
        )

    def enable(self, network: NetworkRow) -> list[str]:
        """Have the kernel forward what a network sends; warnings."""
        warnings = sysctls.enable_ipv4(network.bridge)
        if network.subnet6 is not None:
            warnings += sysctls.enable_ipv6(network.bridge)
        return warnings

    def _choose(self, name: str) -> NetworkRow:
        """The network with a subnet that is free on this host now, which may not be the one it had before a reboot."""
        network = self._parts.database.network(name)
        taken = self._taken(name, network.bridge if network is not None else self._parts.bridge)
        if network is not None and is_free(network.subnet4, taken):
            return network
        if network is not None and name != DEFAULT_NETWORK:
            raise FailedPrecondition(
                "make bridge",
                network.bridge,
                f"the host has another route to {network.subnet4} now",
                hint=f"remove that route, or network {name}",
            )
        for row in self._parts.database.attachments():
            if row.network == name and not os.path.exists(row.netns_path):
                self._parts.database.release(row.sandbox_id)
        if network is not None and any(row.network == name for row in self._parts.database.attachments()):
            raise FailedPrecondition(
                "make bridge",
                self._parts.bridge,
                f"the host has another route to {network.subnet4} now",
                hint="remove that route, or all sandboxes",
            )
        return NetworkRow(name, self._parts.bridge, choose_subnet(taken), self._subnet6(name))

    def ports_of(self, network: NetworkRow) -> list[str]:
        """The links of sandboxes at a network's bridge."""
        bridge = rtnetlink.get_link(self._parts.route, network.bridge)
        if bridge is None:
            return []
        ports = rtnetlink.list_links(self._parts.route, master=bridge.ifindex)
        return [port.name for port in ports if port.kind == "veth" and port.name.startswith("oak")]

    def delete_orphans(self) -> None:
        """Delete bridges without ports whose store is gone from the disk; one that is wanted again is made again."""
        found = rtnetlink.list_links(self._parts.route)
        masters = {link.master for link in found}
        for link in found:
            store = link.alias.removeprefix(_ALIAS)
            if link.kind != "bridge" or store == link.alias or link.ifindex in masters:
                continue
            if not os.path.exists(store):
                orphan = Firewall(link.name, lambda: ((), ()), lambda: self._parts.database)
                try:
                    orphan.remove()
                finally:
                    orphan.close()
                self._parts.route.execute([rtnetlink.delete_link(link.name)])


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
