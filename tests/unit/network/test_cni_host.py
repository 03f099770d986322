# SPDX-License-Identifier: Apache-2.0
"""What plugins are told by the host, and what it reads from its directory, with plugins that only remember."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import DataLoss, InvalidArgument, NotFound
from oakum.network.attachment import AttachmentOptions
from oakum.network.settings import has_configuration
from tests.support import network_fixtures
from tests.support.cni import REAL_PLUGINS, CniBox

ONE, TWO = "1" * 64, "2" * 64
NETNS = "/proc/self/ns/net"
POD = AttachmentOptions(pod_name="web-0", pod_namespace="shop", pod_uid="u-1")


box = network_fixtures.box


def test_every_plugin_gets_its_parameters_and_the_result_of_the_one_before(box: CniBox) -> None:
    box.configure({**box.fake("first"), "own": 1}, box.fake("second"), version="1.1.0")
    network = box.network()
    attached = network.setup(ONE, NETNS, options=POD)
    first, second = box.calls("ADD")
    assert first["environment"] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": ONE,
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": f"{box.plugins}:{REAL_PLUGINS}",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;"
        f"K8S_POD_INFRA_CONTAINER_ID={ONE};K8S_POD_UID=u-1",
    }
    assert first["config"] == {"type": "first", "own": 1, "name": "podnet", "cniVersion": "1.1.0"}
    assert first["netns"] == os.readlink("/proc/self/ns/net")
    assert second["config"]["prevResult"]["seen-by-first"] is True
    assert attached.address == "10.1.2.3"
    assert attached.gateways == ("10.1.2.1",)
    assert attached.dns_servers == ("10.1.2.1",)

    network.teardown(ONE)
    last, before = box.calls("DEL")
    assert (last["plugin"], before["plugin"]) == ("second", "first")
    for call in (last, before):
        assert call["config"]["prevResult"]["seen-by-second"] is True
        assert {**call["environment"], "CNI_COMMAND": "ADD"} == first["environment"]


def test_lists_before_0_4_0_get_no_previous_result_on_del(box: CniBox) -> None:
    box.configure(box.fake("only"), version="0.3.1")
    network = box.network()
    network.setup(ONE, NETNS)
    network.teardown(ONE)
    assert "prevResult" not in box.calls("DEL")[0]["config"]


def test_a_namespace_that_is_gone_is_not_named_on_del(box: CniBox, tmp_path: Path) -> None:
    box.configure(box.fake("only"))
    network = box.network()
    stale = tmp_path / "net"
    stale.symlink_to(NETNS)
    network.setup(ONE, str(stale))
    stale.unlink()
    stale.write_text("")  # what is left of a pin once it is unmounted
    network.teardown(ONE)
    assert "CNI_NETNS" not in box.calls("DEL")[0]["environment"]


def test_capabilities_choose_who_is_told_what(box: CniBox) -> None:
    every = ("portMappings", "bandwidth", "dns", "ips", "mac", "infinibandGUID", "deviceID", "aliases")
    box.configure(
        {**box.fake("first"), "capabilities": {**dict.fromkeys(every, True), "cgroupPath": False}},
        {**box.fake("second"), "capabilities": {"mac": True}, "runtimeConfig": {"ips": ["by its author"]}},
        box.fake("third"),
    )
    options = AttachmentOptions(
        addresses=("10.1.2.9/24",),
        mac="02:00:00:00:00:09",
        ingress_bits_per_s=1000,
        egress_bits_per_s=2000,
        dns_servers=("10.0.0.10",),
        dns_searches=("shop.svc",),
        dns_options=("ndots:5",),
        cgroup_path="/kubepods/pod1",
        infiniband_guid="c2:11:22:33:44:55:66:77",
        device_id="0000:03:00.4",
    )
    ports = [
        PortMapping(container_port=80, host_port=8080, host_ip="192.0.2.2"),
        PortMapping(container_port=53, host_port=5353, protocol="udp"),
        PortMapping(container_port=9),
    ]
    network = box.network()
    network.setup(ONE, NETNS, port_mappings=ports, hostname="web-0", options=options)
    first, second, third = box.calls("ADD")
    assert first["config"]["runtimeConfig"] == {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.2"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ],
        "bandwidth": {
            "ingressRate": 1000,
            "ingressBurst": 2**31 - 1,
            "egressRate": 2000,
            "egressBurst": 2**31 - 1,
        },
        "dns": {"servers": ["10.0.0.10"], "searches": ["shop.svc"], "options": ["ndots:5"]},
        "ips": ["10.1.2.9/24"],
        "mac": "02:00:00:00:00:09",
        "infinibandGUID": "c2:11:22:33:44:55:66:77",
        "deviceID": "0000:03:00.4",
        "aliases": ["web-0"],
    }
    assert second["config"]["runtimeConfig"] == {"mac": "02:00:00:00:00:09"}
    assert "runtimeConfig" not in third["config"]
    assert not [call for call in (first, second, third) if "capabilities" in call["config"]]
    network.teardown(ONE)
    assert box.calls("DEL")[-1]["config"]["runtimeConfig"] == first["config"]["runtimeConfig"]


@pytest.mark.parametrize("name", ["a;K8S_POD_UID=0", "a=b", "a\nb"])
def test_a_name_cannot_smuggle_in_arguments(box: CniBox, name: str) -> None:
    box.configure(box.fake("only"))
    with pytest.raises(InvalidArgument, match="not an argument for CNI"):
        box.network().setup(ONE, NETNS, options=POD._replace(pod_name=name))
    assert box.calls() == []


@pytest.mark.parametrize("sandbox_id", ["", "../x", "-a", "a b"])
def test_only_container_ids_that_the_specification_allows(box: CniBox, sandbox_id: str) -> None:
    box.configure(box.fake("only"))
    with pytest.raises(InvalidArgument, match="not a container id"):
        box.network().setup(sandbox_id, NETNS)


def test_the_directory_is_followed(box: CniBox) -> None:
    network = box.network()
    assert not has_configuration(str(box.configs))
    assert network.problem().endswith("no network configuration is there (a network add-on puts one there)")
    box.configure(box.fake("only"), name="later", file="20-later.conflist")
    assert has_configuration(str(box.configs))
    assert network.setup(ONE, NETNS).network == "later"
    box.configure(box.fake("only"), name="earlier", file="10-earlier.conflist")
    assert network.setup(TWO, NETNS).network == "earlier"
    (box.configs / "10-earlier.conflist").unlink()
    assert [info.name for info in network.list_networks()] == ["later"]
    assert [info.attached for info in network.list_networks()] == [(ONE,)]


def test_the_first_file_counts_even_when_it_is_wrong(box: CniBox) -> None:
    box.configure(box.fake("only"), name="second", file="20-second.conflist")
    (box.configs / "10-first.conflist").write_text("{")
    (box.configs / "00-readme.txt").write_text("not looked at")
    network = box.network()
    assert "10-first.conflist: no JSON" in network.problem()
    with pytest.raises(InvalidArgument, match=r"10-first\.conflist"):
        network.setup(ONE, NETNS)
    assert network.setup(ONE, NETNS, network="second").network == "second"
    with pytest.raises(NotFound, match=r"find network 'third'.*10-first\.conflist"):
        network.setup(TWO, NETNS, network="third")
    assert [bool(info.problem) for info in network.list_networks()] == [False, True]


def test_plugins_of_a_lists_own_directory_come_after_its_own(box: CniBox) -> None:
    inner = box.configs / "podnet"
    inner.mkdir()
    box.configure(box.fake("first"))
    (inner / "20.conf").write_text(json.dumps(box.fake("third")))
    (inner / "10.conf").write_text(json.dumps(box.fake("second")))
    network = box.network()
    network.setup(ONE, NETNS)
    assert [plugin for _, plugin in box.told("ADD")] == ["first", "second", "third"]
    network.teardown(ONE)
    box.configure(box.fake("first"), loadOnlyInlinedPlugins=True)
    network.setup(TWO, NETNS)
    assert [plugin for _, plugin in box.told("ADD")][3:] == ["first"]


def test_an_attachment_keeps_the_configuration_that_it_was_made_with(box: CniBox) -> None:
    box.configure({**box.fake("only"), "own": "old"})
    network = box.network()
    network.setup(ONE, NETNS)
    box.configure({**box.fake("only"), "own": "new"})
    network.teardown(ONE)
    assert box.calls("DEL")[0]["config"]["own"] == "old"


def test_pods_are_served_side_by_side_and_one_pod_one_by_one(box: CniBox) -> None:
    box.configure(box.fake("only", ADD="meet 8"))
    network = box.network()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: network.setup(f"{number:064x}", NETNS), range(8)))
    other = box.network()
    teardown = threading.Thread(target=network.teardown, args=(f"{1:064x}",))
    teardown.start()
    other.teardown(f"{1:064x}")
    teardown.join()
    assert len(box.calls("DEL")) == 1


def test_a_damaged_record_is_said(box: CniBox) -> None:
    box.configure(box.fake("only"))
    network = box.network()
    network.setup(ONE, NETNS)
    (box.records / "attachments" / f"{ONE}.json").write_text("{}")
    with pytest.raises(DataLoss, match="damaged"):
        network.teardown(ONE)
