# SPDX-License-Identifier: Apache-2.0
"""Our rules beside other tools': flushed and restored, and let through where Docker drops what is forwarded."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import SystemFailure
from oakum.linux.nfoutline import drops, generation, netfilter_socket, outline
from oakum.linux.nftables import Nftables
from oakum.network.builtin import BuiltinNetwork
from tests.kernel.test_network_pods import ONE, TWO, talk
from tests.support import network_fixtures
from tests.support.netlab import HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab

# As Docker sets iptables up: https://docs.docker.com/engine/network/packet-filtering-firewalls/ names the chains.
_DOCKER = """
for tables in {four} {six}; do
    $tables -N DOCKER-USER
    $tables -A DOCKER-USER -j RETURN
    $tables -A FORWARD -j DOCKER-USER
    $tables -A FORWARD -i docker0 -j ACCEPT
    $tables -P FORWARD DROP
done
"""


lab = network_fixtures.lab
network = network_fixtures.network


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft delete table inet oakum-test",
        "nft flush table inet oakum-test",
        "nft flush chain inet oakum-test postrouting",
        "nft delete chain inet oakum-test guard",
    ],
)
def test_the_next_sandbox_restores_what_was_flushed(lab: Lab, network: BuiltinNetwork, damage: str) -> None:
    pod = lab.pod()
    network.setup(ONE, pod.path, port_mappings=[PortMapping(container_port=80, host_port=8080)])
    whole = lab.shell("nft -s list ruleset")
    lab.shell(damage)
    assert lab.shell("nft -s list ruleset") != whole
    network.setup(TWO, lab.pod().path)
    assert lab.shell("nft -s list ruleset") == whole
    talk(lab.outside, HOST4, 8080, pod.listen("0.0.0.0", 80))


def test_ports_survive_a_flush_between_setup_and_teardown(lab: Lab, network: BuiltinNetwork) -> None:
    one, two = lab.pod(), lab.pod()
    network.setup(ONE, one.path, port_mappings=[PortMapping(container_port=80, host_port=8080)])
    network.setup(TWO, two.path, port_mappings=[PortMapping(container_port=80, host_port=8081)])
    lab.shell("nft flush ruleset")
    network.teardown(ONE)
    talk(lab.outside, HOST4, 8081, two.listen("0.0.0.0", 80))


def test_gc_restores_map_elements_too(lab: Lab, network: BuiltinNetwork) -> None:
    network.setup(ONE, lab.pod().path, port_mappings=[PortMapping(container_port=80, host_port=8080)])
    whole = lab.shell("nft -s list ruleset")
    lab.shell(
        "nft flush map inet oakum-test any4; nft add element inet oakum-test any6 { tcp . 9 : fd00::9 . 9 }"
    )
    network.gc({ONE})
    assert lab.shell("nft -s list ruleset") == whole


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_pods_get_out_beside_docker(lab: Lab, network: BuiltinNetwork, kind: str) -> None:
    four, six = f"iptables-{kind}", f"ip6tables-{kind}"
    assert shutil.which(four), "Debian's iptables has both"
    lab.shell(_DOCKER.format(four=four, six=six))
    before = lab.shell(f"{four} -S; {six} -S")
    pod = lab.pod()
    attached = network.setup(ONE, pod.path, port_mappings=[PortMapping(container_port=80, host_port=8080)])
    assert attached.warnings == ()
    assert talk(pod, OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4
    assert talk(pod, OUTSIDE6, 7000, lab.outside.listen(OUTSIDE6, 7000)) == HOST6
    assert talk(lab.outside, HOST4, 8080, pod.listen("0.0.0.0", 80)) == OUTSIDE4
    # Docker must go on: its tool reads the chain with our rules, and changes it.
    assert f"-A DOCKER-USER -i {network.bridge}" in lab.shell(f"{four} -S DOCKER-USER")
    lab.shell(f"{four} -I FORWARD -i docker1 -j ACCEPT; {four} -D FORWARD -i docker1 -j ACCEPT")

    network.setup(ONE, pod.path)
    assert lab.shell(f"{four} -S DOCKER-USER").count("-j ACCEPT") == 2, "let through once each way"
    network.teardown(ONE)
    network.remove_network()
    assert lab.shell(f"{four} -S; {six} -S") == before


def test_docker_that_comes_later_is_noticed_with_the_next_sandbox(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    network.setup(ONE, pod.path)
    lab.shell(_DOCKER.format(four="iptables-nft", six="ip6tables-nft"))
    server = lab.outside.listen(OUTSIDE4, 7000)
    with pytest.raises(TimeoutError):
        pod.connect(OUTSIDE4, 7000, timeout_s=0.5)
    network.setup(TWO, lab.pod().path)
    assert talk(pod, OUTSIDE4, 7000, server) == HOST4


def test_a_dropping_forward_chain_without_docker(lab: Lab, network: BuiltinNetwork) -> None:
    lab.shell("iptables-nft -P FORWARD DROP")
    pod = lab.pod()
    network.setup(ONE, pod.path)
    assert talk(pod, OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4
    network.teardown(ONE)
    network.remove_network()
    assert lab.shell("iptables-nft -S FORWARD").strip() == "-P FORWARD DROP"


def test_a_hand_written_firewall_is_left_alone_and_named(lab: Lab, network: BuiltinNetwork) -> None:
    lab.shell("nft 'table inet own { chain fw { type filter hook forward priority 0; policy drop; }; }'")
    before = lab.nft("table inet own")
    network.setup(ONE, lab.pod().path)
    (warning,) = network.warnings()
    assert "inet own fw" in warning
    assert network.bridge in warning
    assert lab.nft("table inet own") == before


def test_settings_that_somebody_undid_are_made_again(lab: Lab, network: BuiltinNetwork) -> None:
    network.setup(ONE, lab.pod().path)
    lab.shell(f"sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.{network.bridge}.route_localnet=0")
    assert network.setup(TWO, lab.pod().path).warnings == ()
    assert lab.shell("sysctl -n net.ipv4.ip_forward").strip() == "1"
    assert lab.shell(f"sysctl -n net.ipv4.conf.{network.bridge}.route_localnet").strip() == "1"


def test_an_outline_says_what_the_kernel_has(lab: Lab) -> None:
    lab.shell("iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD ACCEPT")
    lab.shell(
        "nft 'table inet a { set s { type ifname; }; map m { type ifname : verdict; };"
        " chain one { accept; ip saddr { 10.0.0.1, 10.0.0.2 } drop; }; chain none { }; };"
        " table inet b { set other { type ifname; }; chain one { accept; }; }; table ip a { chain one { accept; }; }'"
    )
    with netfilter_socket() as netfilter:
        found = outline(netfilter, "inet", "a")
        assert found.rules == {"one": 2, "none": 0}
        assert {name for name in found.sets if not name.startswith("__")} == {"s", "m"}
        assert outline(netfilter, "inet", "gone") == ({}, frozenset())
        assert outline(netfilter, "ip6", "a") == ({}, frozenset())
        assert drops(netfilter, "ip", "filter", "FORWARD")
        assert not drops(netfilter, "ip6", "filter", "FORWARD")
        assert not drops(netfilter, "inet", "a", "one"), "a chain without a hook has no policy"
        assert not drops(netfilter, "inet", "a", "gone")
        assert not drops(netfilter, "inet", "gone", "FORWARD")


def test_what_nft_refuses_is_an_error_that_says_so(lab: Lab) -> None:
    with Nftables() as nftables:
        with pytest.raises(SystemFailure, match=r"add rule inet none: nft: .*No such file or directory"):
            nftables.run("add rule inet none c accept", operation="add rule", subject="inet none")
        with pytest.raises(SystemFailure, match="syntax error"):
            nftables.run("nonsense", operation="try")
        nftables.run("add table inet t", operation="add table")
        (table,) = nftables.query("list tables", operation="list")
        assert table["table"]["name"] == "t"
        with pytest.raises(ValueError, match="NUL"):
            nftables.run("add table inet t\0", operation="add table")
    with pytest.raises(ValueError, match="closed"):
        nftables.run("add table inet t", operation="add table")


def test_a_pod_that_comes_or_goes_is_one_transaction_and_no_process(
    lab: Lab, network: BuiltinNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=81, host_port=8081, host_ip=HOST4),
        PortMapping(container_port=53, host_port=5353, protocol="udp"),
    ]
    network.setup(TWO, lab.pod().path)
    pod = lab.pod()

    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("a process was started")

    for name in ("fork", "posix_spawn", "execve"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with netfilter_socket() as netfilter:
        before = generation(netfilter)
        network.setup(ONE, pod.path, port_mappings=ports)
        assert generation(netfilter) == before + 1
        network.teardown(ONE)
        assert generation(netfilter) == before + 2
