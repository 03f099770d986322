# SPDX-License-Identifier: Apache-2.0
"""Pods attached by Debian's CNI plugins, run for real, as the pods see it."""

from __future__ import annotations

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import OakumError
from oakum.network.attachment import AttachmentOptions
from tests.support import network_fixtures
from tests.support.cni import CniBox
from tests.support.netlab import HOST4, OUTSIDE4, Lab
from tests.support.patience import patient

ONE, TWO = "1" * 64, "2" * 64


lab = network_fixtures.lab
box = network_fixtures.box


def bridge(box: CniBox, subnet: str = "10.88.0.0/24", **more: Any) -> dict[str, Any]:
    return {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(box.records.parent / "ipam"),
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
        **more,
    }


def leases(box: CniBox, network: str = "podnet") -> list[str]:
    directory = box.records.parent / "ipam" / network
    return sorted(n for n in os.listdir(directory) if n[0].isdigit()) if directory.exists() else []


def reach(lab: Lab, client: Any, address: str, port: int, server: socket.socket) -> str:
    near = client.connect(address, port)
    server.settimeout(patient(5))
    far, peer = server.accept()
    with near, far:
        far.settimeout(patient(5))
        near.sendall(b"ahoy")
        assert far.recv(16) == b"ahoy"
    return str(peer[0])


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_pod_on_a_bridge_is_as_its_attachment_says_and_leaves_nothing(
    lab: Lab, box: CniBox, version: str
) -> None:
    plugins = [
        bridge(box),
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
    ]
    # Debian's firewall plugin is younger than 0.3.1.
    box.configure(*plugins, *([{"type": "firewall"}] if version != "0.3.1" else []), version=version)
    network, pod = box.network(), lab.pod()
    assert network.problem() == ""
    attached = network.setup(
        ONE, pod.path, port_mappings=[PortMapping(container_port=80, host_port=8080)], hostname="one"
    )
    (eth0,) = [link for link in pod.ip("addr") if link["ifname"] == "eth0"]
    assert eth0["address"] == attached.mac
    assert [(a["local"], a["prefixlen"]) for a in eth0["addr_info"] if a["scope"] == "global"] == [
        (attached.address, attached.prefix_lengths[0])
    ]
    assert [r["gateway"] for r in pod.ip("route", "show", "default")] == list(attached.gateways)
    assert attached.host_interface in {link["ifname"] for link in lab.ip("link show master cni0")}
    assert pod.run("cat", "/proc/sys/net/core/somaxconn").strip() == "500"
    assert network.attachment(ONE) == attached
    assert network.attachments() == [attached]
    assert leases(box) == [attached.address]

    server = pod.listen("0.0.0.0", 80)
    lab.outside.run("ip", "route", "add", "10.88.0.0/24", "via", HOST4)
    reach(lab, lab.outside, HOST4, 8080, server)
    outside = lab.outside.listen("0.0.0.0", 81)
    assert reach(lab, pod, OUTSIDE4, 81, outside) == HOST4
    assert (usage := network.usage(ONE)) is not None
    assert usage.rx_bytes > 0
    assert network.usages() == {ONE: network.usage(ONE)}

    network.teardown(ONE)
    network.teardown(ONE)
    assert network.attachment(ONE) is None
    assert leases(box) == []
    assert box.left() == []
    assert {link["ifname"] for link in pod.ip("link")} == {"lo"}
    assert "10.88." not in lab.shell("iptables-save")
    assert ONE[:12] not in lab.shell("iptables-save")


def test_check_finds_what_somebody_broke(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box))
    network, pod = box.network(), lab.pod()
    attached = network.setup(ONE, pod.path)
    network.check(ONE)
    assert network.setup(ONE, pod.path) == attached
    pod.run("ip", "route", "del", "default")
    with pytest.raises(OakumError, match="CNI CHECK plugin bridge of network podnet"):
        network.check(ONE)
    again = network.setup(ONE, pod.path)
    assert [r["gateway"] for r in pod.ip("route", "show", "default")] == list(again.gateways)
    network.teardown(ONE)


def test_two_families_and_an_address_and_mac_of_ones_choice(lab: Lab, box: CniBox) -> None:
    config = bridge(box, capabilities={"ips": True, "mac": True})
    config["ipam"]["ranges"].insert(0, [{"subnet": "fd00:88::/64"}])
    config["ipam"]["routes"].append({"dst": "::/0"})
    box.configure(config)
    network, pod = box.network(), lab.pod()
    options = AttachmentOptions(addresses=("10.88.0.77",), mac="02:00:00:00:00:77")
    attached = network.setup(ONE, pod.path, options=options)
    assert attached.addresses[0] == "10.88.0.77"
    assert attached.addresses[1].startswith("fd00:88::")
    assert attached.gateways == ("10.88.0.1", "fd00:88::1")
    assert attached.mac == "02:00:00:00:00:77"
    assert pod.ip("link", "show", "eth0")[0]["address"] == attached.mac
    network.teardown(ONE)


def test_bandwidth_is_limited_where_the_list_can(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box), {"type": "bandwidth", "capabilities": {"bandwidth": True}})
    network, pod = box.network(), lab.pod()
    options = AttachmentOptions(ingress_bits_per_s=8_000_000, egress_bits_per_s=16_000_000)
    attached = network.setup(ONE, pod.path, options=options)
    assert "rate 8Mbit" in lab.shell(f"tc qdisc show dev {attached.host_interface}")
    assert "rate 16Mbit" in lab.shell("tc qdisc show")
    network.teardown(ONE)
    assert "tbf" not in lab.shell("tc qdisc show")


def test_ptp(lab: Lab, box: CniBox) -> None:
    box.configure({**bridge(box, "10.89.0.0/24"), "type": "ptp"})
    network, pod = box.network(), lab.pod()
    attached = network.setup(ONE, pod.path)
    assert reach(lab, lab.host, attached.address, 80, pod.listen("0.0.0.0", 80)) == "10.89.0.1"
    network.teardown(ONE)
    assert [link["ifname"] for link in lab.ip("link") if link["ifname"].startswith("veth")] == []


def test_macvlan(lab: Lab, box: CniBox) -> None:
    ipam = bridge(box, "192.0.2.0/24")["ipam"]
    ipam["ranges"][0][0] |= {"rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.110"}
    ipam["routes"] = []
    box.configure({"type": "macvlan", "master": "up0", "mode": "bridge", "ipam": ipam})
    network, pod = box.network(), lab.pod()
    attached = network.setup(ONE, pod.path)
    assert attached.host_interface == ""
    outside = lab.outside.listen("0.0.0.0", 81)
    assert reach(lab, pod, OUTSIDE4, 81, outside) == attached.address == "192.0.2.100"
    network.teardown(ONE)
    assert leases(box) == []


def test_loopback_alone_gives_a_pod_only_127_0_0_1(lab: Lab, box: CniBox) -> None:
    box.configure({"type": "loopback"}, name="lo")
    network, pod = box.network(), lab.pod()
    with pytest.raises(OakumError, match="without an address for eth0"):
        network.setup(ONE, pod.path)
    assert box.left() == []


def test_a_single_plugin_file_is_a_list_of_one(lab: Lab, box: CniBox) -> None:
    (box.configs / "10-old.conf").write_text(
        json.dumps({"cniVersion": "0.3.1", "name": "old", **bridge(box)})
    )
    network, pod = box.network(), lab.pod()
    assert network.setup(ONE, pod.path).network == "old"
    network.teardown(ONE)


def test_a_plugin_that_is_too_old_for_its_list_makes_the_network_not_ready(box: CniBox) -> None:
    box.configure(bridge(box), {"type": "firewall"}, version="0.3.1")
    assert "plugin firewall does not speak CNI 0.3.1" in box.network().problem()
    box.configure(bridge(box), version="1.1.0")
    assert "plugin bridge does not speak CNI 1.1.0" in box.network().problem()
    box.configure(bridge(box), version="1.0.0", cniVersions=["1.1.0", "0.4.0"])
    assert box.network().problem() == ""


def test_of_several_versions_the_newest_that_all_plugins_speak_is_spoken(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box), version="0.4.0", cniVersions=["1.0.0", "1.1.0"])
    network, pod = box.network(), lab.pod()
    network.setup(ONE, pod.path)
    record = json.loads((box.records / "attachments" / f"{ONE}.json").read_text())
    assert record["config"]["cniVersion"] == record["result"]["cniVersion"] == "1.0.0"
    network.teardown(ONE)


def test_a_pool_that_is_exhausted_says_so_and_serves_again_when_one_leaves(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box, "10.88.0.0/30"))
    network, pods = box.network(), [lab.pod(), lab.pod()]
    network.setup(ONE, pods[0].path)
    with pytest.raises(OakumError, match="no IP addresses available"):
        network.setup(TWO, pods[1].path)
    assert box.left() == [f"{ONE}.json"]
    network.teardown(ONE)
    network.setup(TWO, pods[1].path)
    network.teardown(TWO)


def test_a_pod_whose_namespace_is_gone_is_detached_all_the_same(lab: Lab, box: CniBox) -> None:
    box.configure(
        bridge(box), {"type": "portmap", "capabilities": {"portMappings": True}}, {"type": "firewall"}
    )
    network, pod = box.network(), lab.pod()
    network.setup(ONE, pod.path, port_mappings=[PortMapping(container_port=80, host_port=8080)])
    pod.close()
    network.teardown(ONE)
    assert leases(box) == []
    assert "8080" not in lab.shell("iptables-save")


def test_a_bridge_deleted_behind_our_back(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box))
    network, pods = box.network(), [lab.pod(), lab.pod()]
    network.setup(ONE, pods[0].path)
    lab.shell("ip link delete cni0")
    with pytest.raises(OakumError):
        network.check(ONE)
    network.teardown(ONE)
    second = network.setup(TWO, pods[1].path)
    assert reach(lab, lab.host, second.address, 80, pods[1].listen("0.0.0.0", 80)) == "10.88.0.1"
    network.teardown(TWO)
    assert leases(box) == []


def test_fifty_pods_at_once_then_nothing_is_left(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box), {"type": "portmap", "capabilities": {"portMappings": True}})
    network = box.network()
    pods = {f"{number:064x}": lab.pod() for number in range(1, 51)}

    def life(item: tuple[str, Any]) -> str:
        sandbox_id, pod = item
        port = PortMapping(container_port=80, host_port=20000 + int(sandbox_id, 16))
        return network.setup(sandbox_id, pod.path, port_mappings=[port]).address

    with ThreadPoolExecutor(50) as threads:
        addresses = list(threads.map(life, pods.items()))
        assert len(set(addresses)) == 50
        assert len(network.attachments()) == 50
        list(threads.map(network.teardown, pods))
    assert box.left() == []
    assert leases(box) == []
    assert lab.ip("link show master cni0") == []
    assert [link["ifname"] for link in lab.ip("link") if link["ifname"].startswith("veth")] == []
    assert "10.88.0.0/24 ! -d" not in lab.shell("iptables-save -t nat")
    assert "--to-destination 10.88" not in lab.shell("iptables-save -t nat")
