# SPDX-License-Identifier: Apache-2.0
"""Keeping our nftables table and our passages through other tools' FORWARD chains as they have to be.

What the rules say is in `rules`. Docker sets the policy of iptables' FORWARD to drop, which also stops our pods: an
accept in our own table does not help, since a packet must pass every table. So where that policy is found, our bridges
are let through in DOCKER-USER (made for this by Docker), or at the top of FORWARD where Docker is not its author.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from oakum.errors import SystemFailure
from oakum.linux.durable import read_file
from oakum.linux.netlink import NetlinkSocket
from oakum.linux.nfoutline import drops, generation, netfilter_socket, outline
from oakum.linux.nftables import Nftables
from oakum.network.database import NetworkDatabase, NetworkRow, PublishedPort
from oakum.network.rules import (
    DOCKER_USER,
    FAMILY,
    IPTABLES_FORWARD,
    Gate,
    find_passages,
    is_intact,
    mentions,
    other_forwards,
    passage_command,
    port_commands,
    removal_command,
    render_removal,
    render_table,
    stops,
)

if TYPE_CHECKING:
    import subprocess

_DIRECTIONS: Final = ("iifname", "oifname")
_LEGACY: Final = (
    ("/proc/net/ip_tables_names", "iptables-legacy"),
    ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
)
_LEGACY_TIMEOUT_S: Final = 10

_HINT: Final = "let {} pass there"
_HINTS: Final = {"firewalld": "firewall-cmd --zone=trusted --add-interface={}, also with --permanent"}

_INTACT: Final = "ruleset last found intact"


State = Callable[[], tuple[Sequence[NetworkRow], Sequence[PublishedPort]]]


class Firewall:
    """Our table `table` and our passages. Not thread-safe: the caller holds the database's write lock.

    The ruleset as it was when ours was last found intact is noted in the database, so a sandbox that starts pays for a
    look only after somebody has changed something, and for the library only where something is to be done.
    """

    def __init__(self, table: str, state: State, notes: Callable[[], NetworkDatabase]) -> None:
        """`state` reads from the database what the table has to hold; `notes` opens the database."""
        self._table = table
        self._state = state
        self._notes = notes
        self._opened: Nftables | None = None
        self._netfilter_opened: NetlinkSocket | None = None

    @property
    def _nftables(self) -> Nftables:
        if self._opened is None:
            self._opened = Nftables()
        return self._opened

    @property
    def _netfilter(self) -> NetlinkSocket:
        if self._netfilter_opened is None:
            self._netfilter_opened = netfilter_socket()
        return self._netfilter_opened

    def _ruleset(self, changes_ahead: int = 0) -> str:
        """Which ruleset is in force: of this boot, this network namespace, and after how many changes."""
        boot = read_file("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
        namespace = os.stat("/proc/thread-self/ns/net").st_ino
        return f"{boot} {namespace} {generation(self._netfilter) + changes_ahead}"

    def close(self) -> None:
        """Close the context; rules stay."""
        if self._netfilter_opened is not None:
            self._netfilter_opened.close()
            self._netfilter_opened = None
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def ensure(self) -> bool:
        """Restore what somebody flushed; whether something had to be done. Raises SystemFailure."""
        now = self._ruleset()
        if now == self._notes().note(_INTACT):
            return False
        intact = is_intact(outline(self._netfilter, FAMILY, self._table))
        dropping = [gate for gate in IPTABLES_FORWARD if drops(self._netfilter, *gate)]
        if not intact:
            self.replace()
        changed = self._ensure_passages(dropping) or not intact
        self._notes().put_note(_INTACT, "" if changed else now)
        return changed

    def replace(self) -> None:
        """Write the whole table anew from the database. Raises SystemFailure."""
        networks, ports = self._state()
        self._nftables.run(
            render_table(self._table, networks, ports), operation="write nftables table", subject=self._table
        )

    def add_ports(self, ports: Sequence[PublishedPort]) -> None:
        """Open ports that the database has already. Raises SystemFailure."""
        self._change_ports("add", ports)

    def remove_ports(self, ports: Sequence[PublishedPort]) -> None:
        """Close ports that the database has no more. Raises SystemFailure."""
        self._change_ports("delete", ports)

    def _change_ports(self, verb: str, ports: Sequence[PublishedPort]) -> None:
        if not ports:
            return
        before, next_one = self._ruleset(), self._ruleset(1)
        try:
            self._nftables.apply(port_commands(verb, self._table, ports), operation=f"{verb} port map")
            if before == self._notes().note(_INTACT) and next_one == self._ruleset():
                self._notes().put_note(_INTACT, next_one)  # the change was ours alone
        except SystemFailure:
            # The table was flushed, or a killed process left an element: the database is right.
            self.replace()

    def remove(self) -> None:
        """Take everything of ours out of the ruleset. Raises SystemFailure."""
        self._nftables.run(
            render_removal(self._table), operation="remove nftables table", subject=self._table
        )
        for gate in IPTABLES_FORWARD:
            for chain in (gate.chain, DOCKER_USER):
                self._remove_passages(gate._replace(chain=chain), keep=())
        networks, _ = self._state()
        self._legacy("-D", [network.bridge for network in networks])

    def warnings(self) -> list[str]:
        """Rules of others that will stop our pods and that are not ours to change."""
        networks, _ = self._state()
        found: list[str] = []
        for gate in other_forwards(self._list("chains"), self._table):
            listed = self._list(f"table {gate.family} {gate.table}")
            if not stops(gate, listed):
                continue
            bridges = [network.bridge for network in networks if not mentions(listed, network.bridge)]
            if bridges:
                found.append(
                    f"nftables chain {gate.family} {gate.table} {gate.chain} stops forwarded packets:"
                    f" {_HINTS.get(gate.table, _HINT).format(' '.join(bridges))}"
                )
        return found

    def _list(self, what: str) -> list[dict[str, Any]]:
        try:
            return self._nftables.query(f"list {what}", operation="list nftables", subject=what)
        except SystemFailure as error:
            if "No such file or directory" in error.cause:
                return []
            raise

    def _ensure_passages(self, dropping: Sequence[Gate]) -> bool:
        changed = False
        for forward in dropping:
            gate = forward._replace(chain=DOCKER_USER)
            in_gate = self._list(f"chain {gate.family} {gate.table} {gate.chain}")
            if not in_gate:
                gate = forward
                in_gate = self._list(f"chain {gate.family} {gate.table} {gate.chain}")
            changed = self._ensure_passage(gate, in_gate) or changed
        return changed

    def _ensure_passage(self, gate: Gate, listed: Sequence[dict[str, Any]]) -> bool:
        networks, _ = self._state()
        have = {(passage.bridge, passage.direction) for passage in find_passages(listed, self._table)}
        wanted = {(network.bridge, direction) for network in networks for direction in _DIRECTIONS}
        missing = sorted(wanted - have)
        if missing:
            commands = [passage_command(gate, self._table, *which) for which in missing]
            self._nftables.apply(commands, operation="let bridge pass", subject=f"{gate.table} {gate.chain}")
        return bool(missing)

    def _remove_passages(self, gate: Gate, *, keep: Sequence[str]) -> None:
        listed = self._list(f"chain {gate.family} {gate.table} {gate.chain}")
        commands = [
            removal_command(passage)
            for passage in find_passages(listed, self._table)
            if passage.bridge not in keep
        ]
        if commands:
            self._nftables.apply(
                commands, operation="remove bridge's passage", subject=f"{gate.table} {gate.chain}"
            )

    def forget_bridge(self, gone: str) -> None:
        """Remove the passages of a bridge that the database has no more. Raises SystemFailure."""
        self._legacy("-D", [gone])
        networks, _ = self._state()
        keep = [network.bridge for network in networks]
        for gate in IPTABLES_FORWARD:
            for chain in (gate.chain, DOCKER_USER):
                self._remove_passages(gate._replace(chain=chain), keep=keep)
        self.replace()

    def ensure_legacy(self) -> list[str]:
        """The same passages in iptables' old kernel interface, which nftables does not show; warnings.

        It takes a process for each look, so it is done when a bridge is made, not for each sandbox.
        """
        networks, _ = self._state()
        return self._legacy("-I", [network.bridge for network in networks])

    def _legacy(self, verb: str, bridges: Sequence[str]) -> list[str]:
        import shutil  # hardly a host has these rules, and each start would pay

        warnings: list[str] = []
        for names, tool in _LEGACY:
            if not _uses_filter(names):
                continue
            program = shutil.which(tool)
            if program is None:
                warnings.append(f"{tool} rules are in force but {tool} is not installed: pods may be cut off")
                continue
            policy = _call(program, "-S", "FORWARD")
            if verb == "-I" and "-P FORWARD DROP" not in policy.stdout.splitlines():
                continue
            chain = DOCKER_USER if _call(program, "-S", DOCKER_USER).returncode == 0 else "FORWARD"
            for bridge in bridges:
                for option in ("-i", "-o"):
                    rule = (chain, option, bridge, "-j", "ACCEPT")
                    there = _call(program, "-C", *rule).returncode == 0
                    if there == (verb == "-D"):
                        _check(_call(program, verb, *rule), tool)
        return warnings


def _uses_filter(names_path: str) -> bool:
    try:
        with open(names_path, encoding="ascii") as file:
            return "filter" in file.read().split()
    except (FileNotFoundError, PermissionError):
        return False  # the old interface is not in this kernel, or not ours to see


def _call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    import subprocess  # hardly a host has these rules, and each start would pay

    try:
        return subprocess.run(
            [program, "--wait", "5", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LEGACY_TIMEOUT_S,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemFailure("run", program, str(error)) from error


def _check(done: subprocess.CompletedProcess[str], tool: str) -> None:
    if done.returncode != 0:
        raise SystemFailure("let bridge pass", tool, done.stderr.strip() or f"exit code {done.returncode}")
