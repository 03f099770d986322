# SPDX-License-Identifier: Apache-2.0
"""Pods on the built-in bridge, as they and their neighbours see it. Cross-checked with iproute2."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import FailedPrecondition, NotFound, SystemFailure
from oakum.network.attachment import Attachment
from oakum.network.builtin import BuiltinNetwork
from tests.support import network_fixtures
from tests.support.lines import killed_at_every_line
from tests.support.netlab import HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab, Place
from tests.support.patience import eventually, patient

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


lab = network_fixtures.lab
network = network_fixtures.network


def talk(client: Place, address: str, port: int, server: socket.socket) -> str:
    """Exchange a word both ways; the client's address as the server saw it."""
    server.settimeout(patient(5))
    near = client.connect(address, port)
    far, peer = server.accept()
    with near, far:
        far.settimeout(patient(5))
        near.sendall(b"ahoy")
        assert far.recv(16) == b"ahoy"
        far.sendall(b"aye")
        assert near.recv(16) == b"aye"
    return str(peer[0])


def test_a_pod_has_what_its_attachment_says(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    attached = network.setup(ONE, pod.path, hostname="one")

    links = {link["ifname"]: link for link in pod.ip("addr")}
    assert set(links) == {"lo", "eth0"}
    assert "UP" in links["lo"]["flags"]
    eth0 = links["eth0"]
    assert eth0["address"] == attached.mac
    assert eth0["mtu"] == attached.mtu == 1500
    seen = {(a["local"], a["prefixlen"]) for a in eth0["addr_info"] if a["scope"] == "global"}
    assert seen == set(zip(attached.addresses, attached.prefix_lengths, strict=True))
    assert len(seen) == 2
    assert [r["gateway"] for r in pod.ip("route", "show", "default")] == [attached.gateways[0]]
    assert [r["gateway"] for r in pod.ip("-6", "route", "show", "default")] == [attached.gateways[1]]

    (port,) = lab.ip("-d link show", attached.host_interface)
    assert port["master"] == network.bridge
    assert port["linkinfo"]["info_slave_data"]["hairpin"] is True
    (bridge,) = lab.ip("addr show", network.bridge)
    assert set(attached.gateways) < {a["local"] for a in bridge["addr_info"]}
    assert network.attachment(ONE) == attached
    assert network.attachments() == [attached]
    assert attached.warnings == ()


def test_setup_again_changes_nothing(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    first = network.setup(ONE, pod.path)
    before = pod.ip("addr")
    assert network.setup(ONE, pod.path) == first
    after = pod.ip("addr")
    assert [link["ifindex"] for link in after] == [link["ifindex"] for link in before]


def test_setup_completes_what_a_killed_process_left(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    first = network.setup(ONE, pod.path)
    pod.run(
        "sh",
        "-ec",
        "ip route flush table main; ip addr flush dev eth0; ip link set eth0 down; ip link set lo down",
    )
    lab.shell(f"ip link set {first.host_interface} nomaster; ip link set {first.host_interface} down")
    assert network.setup(ONE, pod.path) == first
    server = pod.listen("0.0.0.0", 80)
    assert talk(lab.host, first.address, 80, server) == first.gateways[0]


def test_a_new_namespace_for_the_same_sandbox_gets_the_link(lab: Lab, network: BuiltinNetwork) -> None:
    stale, fresh = lab.pod(), lab.pod()
    first = network.setup(ONE, stale.path)
    again = network.setup(ONE, fresh.path)
    assert again.addresses == first.addresses
    assert talk(lab.host, again.address, 80, fresh.listen("0.0.0.0", 80)) == again.gateways[0]
    assert [link["ifname"] for link in stale.ip("link")] == ["lo"]


def test_pods_reach_each_other_and_the_world_sees_the_host(lab: Lab, network: BuiltinNetwork) -> None:
    pods = [lab.pod(), lab.pod()]
    one, two = (network.setup(i, pod.path) for i, pod in zip((ONE, TWO), pods, strict=True))
    for version in (0, 1):
        server = pods[0].listen(one.addresses[version], 80)
        assert talk(pods[1], one.addresses[version], 80, server) == two.addresses[version]
    assert talk(pods[0], OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4
    assert talk(pods[0], OUTSIDE6, 7000, lab.outside.listen(OUTSIDE6, 7000)) == HOST6


def test_a_first_packet_to_a_pod_over_ipv6_is_not_lost(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    attached = network.setup(ONE, pod.path)
    lab.outside.run("ip", "-6", "route", "add", "fd00::/8", "via", HOST6)
    server = pod.listen(attached.addresses[1], 80)
    assert talk(lab.outside, attached.addresses[1], 80, server) == OUTSIDE6


def test_no_ipv6_where_the_host_or_the_pod_has_none(
    lab: Lab, network: BuiltinNetwork, tmp_path: Path
) -> None:
    pod = lab.pod()
    pod.run("sh", "-ec", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    attached = network.setup(ONE, pod.path)
    assert len(attached.addresses) == 1
    assert talk(pod, OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4

    lab.shell("ip -6 addr flush dev up0 scope global")
    other = BuiltinNetwork(str(tmp_path / "other.db"), name_suffix="other")
    try:
        assert len(other.setup(TWO, lab.pod().path).addresses) == 1
    finally:
        other.close()


def test_forwarding_keeps_the_hosts_own_ipv6_route(lab: Lab, network: BuiltinNetwork) -> None:
    assert lab.shell("cat /proc/sys/net/ipv6/conf/up0/accept_ra").strip() == "1"
    network.setup(ONE, lab.pod().path)
    assert lab.shell("cat /proc/sys/net/ipv6/conf/up0/accept_ra").strip() == "2"
    assert lab.shell("cat /proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"
    assert lab.shell("cat /proc/sys/net/ipv4/ip_forward").strip() == "1"


def test_pods_send_nothing_larger_than_the_uplink_carries(lab: Lab, network: BuiltinNetwork) -> None:
    lab.shell("ip link set up0 mtu 1420")
    pod = lab.pod()
    assert network.setup(ONE, pod.path).mtu == 1420
    assert pod.ip("link", "show", "eth0")[0]["mtu"] == 1420


def test_teardown_frees_the_address_and_may_be_repeated(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    first = network.setup(ONE, pod.path)
    network.teardown(ONE)
    network.teardown(ONE)
    assert network.attachments() == []
    # Left alone as long as possible: whoever still talks to it must not reach another pod.
    assert network.setup(TWO, lab.pod().path).address != first.address

    pod.close()
    eventually(
        lambda: all(link["ifname"] != first.host_interface for link in lab.ip("link")),
        "the link goes with its namespace",
        timeout_s=60,
    )


def test_teardown_without_namespace_bridge_or_rules(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    network.setup(ONE, pod.path)
    pod.close()
    lab.shell(f"ip link delete {network.bridge}; nft flush ruleset")
    network.teardown(ONE)
    assert network.attachments() == []
    fresh = lab.pod()
    attached = network.setup(TWO, fresh.path)
    assert talk(fresh, OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4
    assert attached.gateways[0] in {a["local"] for a in lab.ip("addr show", network.bridge)[0]["addr_info"]}


@pytest.mark.parametrize("by", ["the next sandbox", "gc"])
def test_a_bridge_deleted_behind_our_back_comes_back_with_all_its_sandboxes(
    lab: Lab, network: BuiltinNetwork, by: str
) -> None:
    pods = [lab.pod(), lab.pod()]
    port = PortMapping(container_port=80, host_port=8080)
    first = network.setup(ONE, pods[0].path, port_mappings=[port])
    lab.shell(f"ip link delete {network.bridge}")
    if by == "gc":
        assert network.gc([ONE]) == []
        (port_of_bridge,) = lab.ip("link show master", network.bridge)
        assert port_of_bridge["ifname"] == first.host_interface
    network.setup(TWO, pods[1].path)
    server = pods[0].listen("0.0.0.0", 80)
    assert talk(pods[0], OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4
    assert talk(lab.outside, HOST4, 8080, server) == OUTSIDE4
    assert talk(pods[1], first.address, 80, server) == network.attachments()[1].address
    # through the host port to itself: the link is a hairpin again
    assert talk(pods[0], HOST4, 8080, server) == first.gateways[0]


def test_a_path_that_is_no_namespace_leaves_nothing(
    lab: Lab, network: BuiltinNetwork, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemFailure, match="enter network namespace"):
        network.setup(ONE, str(tmp_path / "file"))
    with pytest.raises(SystemFailure, match="open network namespace"):
        network.setup(ONE, str(tmp_path / "missing"))
    assert network.attachments() == []


def test_an_interface_of_somebody_else_is_left_alone(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    with pytest.raises(FailedPrecondition, match="another eth0"):
        network.setup(ONE, pod.path)
    assert network.attachments() == []
    assert {link["ifname"] for link in pod.ip("link")} == {"lo", "eth0", "other"}


def test_traffic_is_counted_as_the_pod_sees_it(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    attached = network.setup(ONE, pod.path)
    receiver = lab.outside.bind_udp(OUTSIDE4, 9)
    sender = pod.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(10):
        sender.sendto(bytes(1000), (OUTSIDE4, 9))
        receiver.recv(2000)
    counted = network.usage(ONE)
    assert counted is not None
    (seen,) = pod.ip("-s", "link", "show", "eth0")
    assert counted.name == "eth0"
    assert counted.tx_bytes >= 10_000
    assert abs(counted.tx_bytes - seen["stats64"]["tx"]["bytes"]) < 1000
    assert abs(counted.rx_bytes - seen["stats64"]["rx"]["bytes"]) < 1000
    assert counted.rx_bytes < 5000
    assert network.usages()[ONE].tx_bytes >= counted.tx_bytes
    network.teardown(ONE)
    lab.shell(f"ip link delete {attached.host_interface}")
    assert network.usage(ONE) is None


def test_gc_frees_dead_sandboxes_and_their_links(lab: Lab, network: BuiltinNetwork) -> None:
    pods = {i: lab.pod() for i in (ONE, TWO, THREE)}
    links = {i: network.setup(i, pod.path).host_interface for i, pod in pods.items()}
    network.teardown(THREE)  # its namespace is kept by this test: the link stays
    assert sorted(network.gc({TWO})) == [ONE]
    assert [a.sandbox_id for a in network.attachments()] == [TWO]
    left = {link["ifname"] for link in lab.ip("link")}
    assert links[TWO] in left
    assert not {links[ONE], links[THREE]} & left


def test_networks_of_two_roots_live_side_by_side(lab: Lab, network: BuiltinNetwork, tmp_path: Path) -> None:
    other = BuiltinNetwork(str(tmp_path / "root2" / "network.db"), name_suffix="other")
    try:
        pods = [lab.pod(), lab.pod()]
        one, two = network.setup(ONE, pods[0].path), other.setup(ONE, pods[1].path)
        assert one.address.split(".")[1] != two.address.split(".")[1]
        assert talk(pods[0], two.address, 80, pods[1].listen("0.0.0.0", 80)) in (one.address, two.gateways[0])
        other.teardown(ONE)
        other.remove_network()
        assert [t["table"]["name"] for t in lab.nft("tables")] == [network.table]
        assert talk(pods[0], OUTSIDE4, 7000, lab.outside.listen(OUTSIDE4, 7000)) == HOST4
    finally:
        other.close()


def test_the_subnet_avoids_the_hosts_routes(lab: Lab, network: BuiltinNetwork) -> None:
    lab.shell(f"ip route add 10.0.0.0/8 via {OUTSIDE4}")
    assert network.setup(ONE, lab.pod().path).address == "172.20.0.2"


def test_after_a_reboot_a_taken_subnet_is_replaced(lab: Lab, network: BuiltinNetwork) -> None:
    fresh, before = lab.pod(), lab.pod()
    # A path that is gone afterwards, as pins in /run are after a reboot (descriptors are given out again).
    with subprocess.Popen(
        ["nsenter", f"--net=/proc/self/fd/{before.fd}", "cat"], stdin=subprocess.PIPE, pass_fds=[before.fd]
    ) as holder:
        path = f"/proc/{holder.pid}/ns/net"
        while os.readlink(path) != os.readlink(before.path):
            time.sleep(0.01)
        first = network.setup(ONE, path)
    lab.shell(f"ip link delete {network.bridge}; ip route add {first.address}/32 via {OUTSIDE4}")
    second = network.setup(TWO, fresh.path)
    assert second.address.split(".")[:2] != first.address.split(".")[:2]
    lab.shell(f"ip link delete {network.bridge}; ip route add {second.address}/32 via {OUTSIDE4}")
    with pytest.raises(FailedPrecondition, match="another route"):
        network.setup(TWO, fresh.path)


def test_removing_the_network_leaves_the_host_as_it_was(lab: Lab, network: BuiltinNetwork) -> None:
    before = {link["ifname"] for link in lab.ip("link")}
    pod = lab.pod()
    network.setup(ONE, pod.path)
    with pytest.raises(FailedPrecondition, match="is attached"):
        network.remove_network()
    network.teardown(ONE)
    network.remove_network()
    network.remove_network()
    assert {link["ifname"] for link in lab.ip("link")} == before
    assert lab.nft("ruleset") == []
    assert network.networks() == []


def test_bridges_of_roots_that_were_deleted_are_removed(
    lab: Lab, network: BuiltinNetwork, tmp_path: Path
) -> None:
    gone = BuiltinNetwork(str(tmp_path / "gone" / "network.db"), name_suffix="gone")
    pod = lab.pod()
    gone.setup(ONE, pod.path)
    gone.teardown(ONE)
    gone.gc(())
    gone.close()
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    network.setup(TWO, lab.pod().path)
    network.gc({TWO})
    assert gone.bridge not in {link["ifname"] for link in lab.ip("link")}
    assert [t["table"]["name"] for t in lab.nft("tables")] == [network.table]


def test_an_unknown_network_is_refused(lab: Lab, network: BuiltinNetwork) -> None:
    with pytest.raises(NotFound, match="no such network"):
        network.setup(ONE, lab.pod().path, network="other")


_WORKER = """
import sys, threading
from oakum.linux.namespaces import CLONE_NEWNET, unshare
from oakum.linux.netns import own_netns
from oakum.network.builtin import BuiltinNetwork
from oakum.backend.config import PortMapping
def place():
    made = []
    def make():
        unshare(CLONE_NEWNET); made.append(own_netns().steal())
    thread = threading.Thread(target=make); thread.start(); thread.join()
    return f"/proc/self/fd/{made[0]}"
network = BuiltinNetwork(sys.argv[1], name_suffix="test")
for number in range(int(sys.argv[3])):
    ports = [PortMapping(container_port=80, host_port=int(sys.argv[2]) * 100 + 10000 + number)]
    attached = network.setup(f"{sys.argv[2]}-{number}", place(), port_mappings=ports)
    print(attached.address, flush=True)
network.close()
"""


def worker(database: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, database, name, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_processes_that_start_at_once_get_addresses_of_their_own(lab: Lab, tmp_path: Path) -> None:
    database = str(tmp_path / "network.db")
    workers = [worker(database, str(number), 10) for number in range(4)]
    outputs = [process.communicate(timeout=120)[0] for process in workers]
    assert [process.returncode for process in workers] == [0] * 4
    addresses = [line for output in outputs for line in output.split()]
    assert len(set(addresses)) == 40
    network = BuiltinNetwork(database, name_suffix="test")
    try:
        assert len(network.attachments()) == 40
        elements = lab.nft(f"map inet {network.table} any4")[0]["map"]["elem"]
        assert sorted(value["concat"][0] for _, value in elements) == sorted(addresses)
        assert len(network.gc(())) == 40
        assert "elem" not in lab.nft(f"map inet {network.table} any4")[0]["map"]
    finally:
        network.close()


def test_killed_at_any_moment_the_next_process_carries_on(lab: Lab, tmp_path: Path) -> None:
    database = str(tmp_path / "network.db")
    seen: list[Attachment] = []
    for round_number in range(12):
        process = worker(database, str(round_number), 50)
        assert process.stdout is not None
        if round_number % 2:
            process.stdout.readline()
        time.sleep(0.05 + 0.023 * round_number)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        network = BuiltinNetwork(database, name_suffix="test")
        try:
            pod = lab.pod()
            seen.append(network.setup(f"next-{round_number}", pod.path))
            assert talk(lab.host, seen[-1].address, 80, pod.listen("0.0.0.0", 80)) == seen[-1].gateways[0]
            network.gc({attached.sandbox_id for attached in seen})
            assert {a.sandbox_id for a in network.attachments()} == {a.sandbox_id for a in seen}
            assert "elem" not in lab.nft(f"map inet {network.table} any4")[0]["map"]
            left = {link["ifname"] for link in lab.ip("link") if link["ifname"].startswith("oak")}
            assert left == {a.host_interface for a in seen} | {network.bridge}
        finally:
            network.close()
    assert len({attached.address for attached in seen}) == len(seen)


def test_killed_between_any_lines_a_life_converges(lab: Lab, tmp_path: Path) -> None:
    database = str(tmp_path / "network.db")
    pod, other = lab.pod(), lab.pod()
    ports = [
        PortMapping(container_port=80, host_port=8080),
        PortMapping(container_port=53, host_port=5353, protocol="udp"),
    ]

    def life() -> None:
        network = BuiltinNetwork(database, name_suffix="test")
        network.setup(ONE, pod.path, port_mappings=ports)
        network.teardown(ONE)
        network.remove_network()

    count = 0
    for count in killed_at_every_line(life, within="oakum/network", step=41):
        after = BuiltinNetwork(database, name_suffix="test")
        try:
            # Whoever comes next gets the ports once the dead are freed, with everything else in order.
            after.gc(())
            attached = after.setup(TWO, other.path, port_mappings=ports)
            assert talk(lab.host, "127.0.0.1", 8080, other.listen("0.0.0.0", 80)) == attached.gateways[0]
            after.teardown(TWO)
            after.remove_network()
        finally:
            other.disconnect()
            after.close()
        assert lab.nft("ruleset") == [], f"after line {count}"
        assert {link["ifname"] for link in lab.ip("link")} == {"lo", "up0"}, f"after line {count}"
    assert count > 1000
