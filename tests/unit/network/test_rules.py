# SPDX-License-Identifier: Apache-2.0
"""The text of the table, and what listings of other tables mean. That nft takes it is shown by the kernel tests."""

from __future__ import annotations

import ipaddress
from typing import Any

from oakum.linux.nfoutline import Outline
from oakum.network import rules
from oakum.network.database import NetworkRow, PublishedPort
from oakum.network.ports import Binding
from oakum.network.rules import Gate

NETWORK = NetworkRow(
    "default", "oakum0", ipaddress.IPv4Network("10.173.0.0/16"), ipaddress.IPv6Network("fd00::/64")
)
PORTS = [
    PublishedPort(Binding("tcp", "0.0.0.0", 8080, 80), "10.173.0.2"),
    PublishedPort(Binding("udp", "127.0.0.1", 53, 5353), "10.173.0.2"),
    PublishedPort(Binding("sctp", "::", 3000, 3000), "fd00::2"),
    PublishedPort(Binding("tcp", "fd00::99", 443, 8443), "fd00::2"),
]


def test_the_table_is_replaced_in_one_go_with_all_its_elements() -> None:
    script = rules.render_table("oakum0", [NETWORK], PORTS)
    assert script.startswith("add table inet oakum0\ndelete table inet oakum0\ntable inet oakum0 {")
    for part in (
        'elements = { "oakum0" }',
        "elements = { 10.173.0.0/16 }",
        "elements = { fd00::/64 }",
        "elements = { tcp . 8080 : 10.173.0.2 . 80 }",
        "elements = { 127.0.0.1 . udp . 53 : 10.173.0.2 . 5353 }",
        "elements = { sctp . 3000 : fd00::2 . 3000 }",
        "elements = { fd00::99 . tcp . 443 : fd00::2 . 8443 }",
    ):
        assert part in script
    assert "elements" not in rules.render_table("oakum0", [], [])


def test_a_port_is_one_element() -> None:
    (command,) = rules.port_commands("add", "oakum0", PORTS[:1])
    assert command["add"]["element"] == {
        "family": "inet",
        "table": "oakum0",
        "name": "any4",
        "elem": [[{"concat": ["tcp", "8080"]}, {"concat": ["10.173.0.2", "80"]}]],
    }
    names = [c["delete"]["element"]["name"] for c in rules.port_commands("delete", "oakum0", PORTS)]
    assert names == ["any4", "ports4", "any6", "ports6"]


def outline(script: str) -> Outline:
    """What the kernel would tell of our own script."""
    counts: dict[str, int] = {}
    sets: set[str] = set()
    chain = ""
    for line in script.splitlines():
        words = line.split()
        if words[:1] in (["set"], ["map"]):
            sets.add(words[1])
        elif words[:1] == ["chain"]:
            chain = words[1]
            counts[chain] = 0
        elif chain and words and words[0] not in ("type", "comment", "}"):
            counts[chain] += 1
    return Outline(counts, frozenset(sets))


def test_any_missing_part_is_noticed() -> None:
    whole = outline(rules.render_table("oakum0", [NETWORK], PORTS))
    assert rules.is_intact(whole)
    assert not rules.is_intact(Outline({}, frozenset()))
    for chain, count in whole.rules.items():
        without = {name: number for name, number in whole.rules.items() if name != chain}
        assert not rules.is_intact(whole._replace(rules=without)), chain
        for wrong in (count - 1, count + 1):
            assert not rules.is_intact(whole._replace(rules={**whole.rules, chain: wrong})), chain
    for name in whole.sets:
        assert not rules.is_intact(whole._replace(sets=whole.sets - {name})), name
    assert not rules.is_intact(whole._replace(rules={**whole.rules, "another": 0}))


def test_our_passages_are_told_from_others() -> None:
    gate = Gate("ip", "filter", "DOCKER-USER")
    made = rules.passage_command(gate, "oakum0", "oakum0", "iifname")["insert"]["rule"]
    other = rules.passage_command(gate, "oakum-x", "oakum-x", "iifname")["insert"]["rule"]
    listed = [
        {"chain": {"name": "DOCKER-USER"}},
        {"rule": {**made, "handle": 7}},
        {"rule": {**other, "handle": 8}},
    ]
    (passage,) = rules.find_passages(listed, "oakum0")
    assert (passage.gate, passage.handle, passage.bridge, passage.direction) == (gate, 7, "oakum0", "iifname")
    assert rules.removal_command(passage)["delete"]["rule"]["handle"] == 7


def test_chains_that_drop_are_found() -> None:
    def chain(family: str, table: str, name: str, policy: str) -> dict[str, Any]:
        return {
            "chain": {"family": family, "table": table, "name": name, "hook": "forward", "policy": policy}
        }

    listed = [
        chain("ip", "filter", "FORWARD", "drop"),
        chain("inet", "own", "fw", "drop"),
        chain("inet", "calm", "fw", "accept"),
        chain("bridge", "own", "fw", "drop"),
        {"chain": {"family": "inet", "table": "own", "name": "plain"}},
    ]
    assert rules.other_forwards(listed, "oakum0") == [Gate("inet", "own", "fw"), Gate("inet", "calm", "fw")]
    assert rules.stops(Gate("inet", "own", "fw"), listed[1:2])
    assert not rules.stops(Gate("inet", "calm", "fw"), listed[2:3])


def test_chains_that_reject_in_the_end_are_found() -> None:
    gate = Gate("inet", "firewalld", "filter_FORWARD")
    chain = {"chain": {"name": "filter_FORWARD", "hook": "forward", "policy": "accept"}}

    def rule(*expressions: dict[str, Any], of: str = "filter_FORWARD") -> dict[str, Any]:
        return {"rule": {"chain": of, "expr": list(expressions)}}

    state = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
    zone = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "oakum0"}}
    reject = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
    assert rules.stops(gate, [chain, rule(state, {"drop": None}), rule({"counter": {}}, reject)])
    assert not rules.stops(gate, [chain, rule(reject), rule({"accept": None})])
    assert not rules.stops(gate, [chain, rule(state, {"drop": None})])
    assert not rules.stops(gate, [chain, rule({"drop": None}, of="filter_INPUT")])
    assert rules.mentions([chain, rule(zone, {"accept": None}, of="zones")], "oakum0")
    assert not rules.mentions([chain, rule(zone, {"accept": None}, of="zones")], "oakum")
