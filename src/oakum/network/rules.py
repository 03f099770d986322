# SPDX-License-Identifier: Apache-2.0
"""The text of our nftables table, and how other tables look that need a word from us. Pure functions.

One table for each ROOT, named like its first bridge. Rules are the same whatever runs: bridges, subnets and ports are
elements of sets and maps, so that a pod comes and goes as elements. Established connections survive a replacement
of the table since the kernel keeps their translation in conntrack.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from oakum.linux.nfoutline import Outline
from oakum.network.database import NetworkRow, PublishedPort
from oakum.network.ports import Binding

FAMILY: Final = "inet"

# `fib daddr type local` is every address of the host, loopback among them.
# Priorities by number: names of priorities came late to some families.
_CHAINS: Final = """
    chain guard {
        comment "route_localnet on our bridges must not let pods reach what listens on the host's loopback"
        type filter hook prerouting priority -300; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 drop
    }
    chain ports {
        dnat ip to ip daddr . meta l4proto . th dport map @ports4
        dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
        meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @any4
        meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6
    }
    chain forward {
        comment "networks are apart: only published ports lead from one to another; internal ones have no way out"
        type filter hook forward priority 0; policy accept;
        iifname @internal oifname != @internal drop
        oifname @internal iifname != @internal drop
        iifname . oifname @within accept
        ct status dnat accept
        iifname @bridges oifname @bridges drop
    }
    chain prerouting {
        comment "nobody outside may reach a port that is published on loopback only"
        type nat hook prerouting priority -100; policy accept;
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
        jump ports
    }
    chain output {
        comment "the kernel does not let a connection from ::1 leave: refused at once, clients try 127.0.0.1 next"
        type nat hook output priority -100; policy accept;
        ip6 daddr ::1 return
        jump ports
    }
    chain postrouting {
        comment "answers to loopback clients and to pods that reach a pod by a published port come back this way"
        type nat hook postrouting priority 100; policy accept;
        ip saddr 127.0.0.0/8 oifname @bridges masquerade
        ip saddr @subnets4 oifname @bridges ct status dnat masquerade
        ip6 saddr @subnets6 oifname @bridges ct status dnat masquerade
        ip saddr @subnets4 oifname != @bridges masquerade
        ip6 saddr @subnets6 oifname != @bridges masquerade
    }
"""
_SETS: Final[tuple[tuple[str, str, str], ...]] = (
    ("set", "bridges", "type ifname;"),
    ("set", "internal", "type ifname;"),
    ("set", "within", "type ifname . ifname;"),
    ("set", "subnets4", "type ipv4_addr; flags interval;"),
    ("set", "subnets6", "type ipv6_addr; flags interval;"),
    ("map", "any4", "type inet_proto . inet_service : ipv4_addr . inet_service;"),
    ("map", "any6", "type inet_proto . inet_service : ipv6_addr . inet_service;"),
    ("map", "ports4", "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;"),
    ("map", "ports6", "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;"),
)
# An empty chain whose name tells which text the table was made from: another version of us replaces it.
_VERSION: Final = "version_" + hashlib.sha256(f"{_SETS}{_CHAINS}".encode()).hexdigest()[:12]


def _count_rules() -> dict[str, int]:
    counts: dict[str, int] = {_VERSION: 0}
    chain = ""
    for line in _CHAINS.splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            chain = words[1]
            counts[chain] = 0
        elif words and words[0] not in ("type", "comment", "}"):
            counts[chain] += 1
    return counts


_RULES_PER_CHAIN: Final = _count_rules()
_SET_NAMES: Final = frozenset(name for _, name, _ in _SETS)


def render_table(table: str, networks: Sequence[NetworkRow], ports: Iterable[PublishedPort]) -> str:
    """The script that replaces the whole table in one transaction."""
    elements: dict[str, list[str]] = {name: [] for _, name, _ in _SETS}
    for network in networks:
        elements["bridges"].append(f'"{network.bridge}"')
        elements["within"].append(f'"{network.bridge}" . "{network.bridge}"')
        if network.internal:
            elements["internal"].append(f'"{network.bridge}"')
        elements["subnets4"].append(str(network.subnet4))
        if network.subnet6 is not None:
            elements["subnets6"].append(str(network.subnet6))
    for port in ports:
        name, key, value = _element(port)
        elements[name].append(f"{' . '.join(key)} : {' . '.join(value)}")
    parts = [f"add table {FAMILY} {table}", f"delete table {FAMILY} {table}", f"table {FAMILY} {table} {{"]
    for kind, name, properties in _SETS:
        filled = f" elements = {{ {', '.join(elements[name])} }}" if elements[name] else ""
        parts.append(f"    {kind} {name} {{ {properties}{filled}\n    }}")
    parts += [_CHAINS, f"    chain {_VERSION} {{\n    }}", "}"]
    return "\n".join(parts) + "\n"


def render_removal(table: str) -> str:
    """The script that removes the table; one that is gone is fine."""
    return f"add table {FAMILY} {table}\ndelete table {FAMILY} {table}\n"


def port_commands(verb: str, table: str, ports: Iterable[PublishedPort]) -> list[dict[str, Any]]:
    """JSON commands that `verb` ("add" or "delete") ports."""
    commands: list[dict[str, Any]] = []
    for port in ports:
        name, key, value = _element(port)
        element = [{"concat": list(key)}, {"concat": list(value)}]
        commands.append(
            {verb: {"element": {"family": FAMILY, "table": table, "name": name, "elem": [element]}}}
        )
    return commands


def _element(port: PublishedPort) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    binding: Binding = port.binding
    key = (binding.protocol, str(binding.host_port))
    if not binding.is_any:
        key = (binding.host_ip, *key)
    name = f"{'any' if binding.is_any else 'ports'}{binding.version}"
    return name, key, (port.address, str(binding.container_port))


def is_intact(found: Outline) -> bool:
    """Whether our table has every chain with all its rules, and every set."""
    return found.rules == _RULES_PER_CHAIN and found.sets == _SET_NAMES


class Gate(NamedTuple):
    """A chain of another tool where forwarded packets of our bridges would be dropped."""

    family: str
    table: str
    chain: str


class Passage(NamedTuple):
    """One of our rules in such a chain."""

    gate: Gate
    handle: int
    bridge: str
    direction: str


def passage_comment(table: str) -> str:
    """What marks our rules in others' chains."""
    return f"{table}: containers of oakum"


def find_passages(listed: Iterable[dict[str, Any]], table: str) -> list[Passage]:
    """Our rules in a listing of another tool's chain."""
    found: list[Passage] = []
    for entry in listed:
        rule = entry.get("rule")
        if rule is None or rule.get("comment") != passage_comment(table):
            continue
        for expression in rule.get("expr", []):
            match = expression.get("match")
            if match is not None:
                gate = Gate(rule["family"], rule["table"], rule["chain"])
                direction = match["left"]["meta"]["key"]
                found.append(Passage(gate, int(rule["handle"]), str(match["right"]), direction))
    return found


def passage_command(gate: Gate, table: str, bridge: str, direction: str) -> dict[str, Any]:
    """The JSON command that lets packets of `bridge` pass at the top of a chain.

    Only expressions that iptables-nft can read itself: one it does not know (such as ct state) makes it call the
    whole table incompatible, and then Docker cannot change its own rules any more.
    """
    expressions: list[dict[str, Any]] = [
        {"match": {"op": "==", "left": {"meta": {"key": direction}}, "right": bridge}},
        {"counter": {"packets": 0, "bytes": 0}},
        {"accept": None},
    ]
    return {
        "insert": {
            "rule": {
                "family": gate.family,
                "table": gate.table,
                "chain": gate.chain,
                "comment": passage_comment(table),
                "expr": expressions,
            }
        }
    }


def removal_command(passage: Passage) -> dict[str, Any]:
    """The JSON command that removes one of our rules from another tool's chain."""
    gate = passage.gate
    return {
        "delete": {
            "rule": {
                "family": gate.family,
                "table": gate.table,
                "chain": gate.chain,
                "handle": passage.handle,
            }
        }
    }


def other_forwards(listed: Iterable[dict[str, Any]], table: str) -> list[Gate]:
    """Base chains of other tables, beside iptables', that see forwarded packets: hand-written firewalls, firewalld."""
    found: list[Gate] = []
    for entry in listed:
        chain = entry.get("chain", {})
        if chain.get("hook") != "forward":
            continue
        gate = Gate(chain["family"], chain["table"], chain["name"])
        if gate not in IPTABLES_FORWARD and gate.table != table and gate.family in ("ip", "ip6", "inet"):
            found.append(gate)
    return found


def stops(gate: Gate, listed: Iterable[dict[str, Any]]) -> bool:
    """Whether a chain in the listing of its table drops or rejects what no rule before has let pass."""
    drops, last = False, list[dict[str, Any]]()
    for entry in listed:
        chain, rule = entry.get("chain", {}), entry.get("rule", {})
        if chain.get("name") == gate.chain:
            drops = chain.get("policy") == "drop"
        elif rule.get("chain") == gate.chain:
            last = rule.get("expr", [])
    verdicts = {name for expression in last for name in expression} - {"counter", "log", "limit"}
    return drops or verdicts in ({"drop"}, {"reject"})


def mentions(listed: Iterable[dict[str, Any]], bridge: str) -> bool:
    """Whether a rule in a listing names an interface: whoever wrote it has thought of it."""
    return any(f'"{bridge}"' in json.dumps(entry["rule"]) for entry in listed if "rule" in entry)


IPTABLES_FORWARD: Final = (Gate("ip", "filter", "FORWARD"), Gate("ip6", "filter", "FORWARD"))
DOCKER_USER: Final = "DOCKER-USER"
