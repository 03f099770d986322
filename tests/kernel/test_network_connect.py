# SPDX-License-Identifier: Apache-2.0
"""Places in several built-in networks at once: taken and given back while a sandbox lives, at any moment of a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.backend.config import PortMapping
from oakum.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from oakum.network.attachment import AttachmentOptions
from oakum.network.builtin import BuiltinNetwork
from tests.kernel.test_network_pods import ONE, TWO, talk
from tests.support import network_fixtures
from tests.support.lines import killed_at_every_line
from tests.support.netlab import HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab, Place

lab = network_fixtures.lab


@pytest.fixture
def network(lab: Lab, tmp_path: Path) -> Iterator[BuiltinNetwork]:
    made = BuiltinNetwork(str(tmp_path / "network.db"), name_suffix="test")
    made.create_network("front", subnets=["10.8.0.0/24", "fd00:8::/64"])
    made.create_network("back", subnets=["10.9.0.0/24", "fd00:9::/64"])
    yield made
    made.close()


def addresses(pod: Place) -> dict[str, list[str]]:
    """The global addresses of each interface of a pod."""
    return {
        link["ifname"]: [a["local"] for a in link["addr_info"] if a["scope"] == "global"]
        for link in pod.ip("addr")
        if link["ifname"] != "lo"
    }


def ways_out(pod: Place) -> list[str]:
    return [
        route["gateway"] for option in ("-4", "-6") for route in pod.ip(option, "route", "show", "default")
    ]


def test_a_connected_pod_has_an_interface_in_each_network(lab: Lab, network: BuiltinNetwork) -> None:
    pod, neighbour = lab.pod(), lab.pod()
    first = network.setup(ONE, pod.path, network="front")
    network.setup(TWO, neighbour.path, network="back")
    options = AttachmentOptions(addresses=("10.9.0.77", "fd00:9::4d"), mac="02:00:00:00:00:7a")
    second = network.connect(ONE, pod.path, network="back", options=options)
    assert (second.interface, second.network, second.mac) == ("eth1", "back", "02:00:00:00:00:7a")
    assert addresses(pod) == {"eth0": list(first.addresses), "eth1": ["10.9.0.77", "fd00:9::4d"]}
    assert ways_out(pod) == ["10.8.0.1", "fd00:8::1"], "the older place leads"
    assert network.connect(ONE, pod.path, network="back", options=options) == second
    assert network.attachments_of(ONE) == [first, second]
    assert [info.attached for info in network.list_networks()] == [(), (TWO, ONE), (ONE,)]
    for family in (0, 1):
        listener = pod.listen(second.addresses[family], 80)
        assert talk(neighbour, second.addresses[family], 80, listener) != ""
    assert talk(pod, OUTSIDE4, 80, lab.outside.listen(OUTSIDE4, 80)) == HOST4

    assert network.disconnect(ONE, "back")
    assert not network.disconnect(ONE, "back")
    assert addresses(pod) == {"eth0": list(first.addresses)}
    assert second.host_interface not in {link["ifname"] for link in lab.ip("link")}
    with pytest.raises(OSError, match=r"timed out|refused|unreachable|No route"):
        neighbour.connect(second.address, 80, timeout_s=0.5)
    taken = network.setup(
        "3" * 64, lab.pod().path, network="back", options=AttachmentOptions(addresses=("10.9.0.77",))
    )
    assert taken.address == "10.9.0.77", "the address is free for others"


def test_the_way_out_and_the_ports_follow_the_oldest_place(lab: Lab, network: BuiltinNetwork) -> None:
    network.create_network("vault", subnets=["10.7.0.0/24", "fd00:7::/64"], internal=True)
    pod = lab.pod()
    ports = [PortMapping(container_port=80, host_port=8080)]
    network.setup(ONE, pod.path, network="vault", port_mappings=ports)
    assert ways_out(pod) == ["10.7.0.1", "fd00:7::1"]
    v4 = pod.listen("0.0.0.0", 80)
    with pytest.raises(OSError, match="timed out"):
        lab.outside.connect(HOST4, 8080, timeout_s=0.5)
    network.connect(ONE, pod.path, network="front")
    assert ways_out(pod) == ["10.8.0.1", "fd00:8::1"], "an internal network leads nowhere"
    network.connect(ONE, pod.path, network="back")
    assert talk(lab.outside, HOST4, 8080, v4) == OUTSIDE4

    network.disconnect(ONE, "front")
    assert ways_out(pod) == ["10.9.0.1", "fd00:9::1"]
    assert talk(lab.outside, HOST4, 8080, v4) == OUTSIDE4
    assert talk(lab.host, "127.0.0.1", 8080, v4) == "10.9.0.1"
    pod.disconnect()
    assert talk(lab.outside, HOST6, 8080, pod.listen("fd00:9::2", 80)) == OUTSIDE6

    network.disconnect(ONE, "vault")
    network.disconnect(ONE, "back")
    assert (addresses(pod), network.attachments_of(ONE)) == ({}, [])
    with pytest.raises(ConnectionRefusedError):
        lab.outside.connect(HOST4, 8080)
    with pytest.raises(AlreadyExists, match="sandbox 111111111111 has"):
        network.setup(TWO, lab.pod().path, port_mappings=ports)  # they are still its own
    again = network.connect(ONE, pod.path, network="front")
    assert (again.interface, ways_out(pod)) == ("eth0", ["10.8.0.1", "fd00:8::1"])
    assert talk(lab.outside, HOST4, 8080, pod.listen("0.0.0.0", 80)) == OUTSIDE4
    network.teardown(ONE)
    network.setup(TWO, lab.pod().path, port_mappings=ports)


def test_a_restored_table_leads_to_the_same_place(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    network.setup(
        ONE, pod.path, network="front", port_mappings=[PortMapping(container_port=80, host_port=8080)]
    )
    network.connect(ONE, pod.path, network="back")
    network.disconnect(ONE, "front")
    before = lab.nft(f"map inet {network.table} any4")
    lab.shell("nft flush ruleset")
    network.gc({ONE})
    assert lab.nft(f"map inet {network.table} any4")[0]["map"]["elem"] == before[0]["map"]["elem"]


def test_what_cannot_be_connected_is_refused_and_changes_nothing(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    first = network.setup(ONE, pod.path, network="front")
    network.setup(TWO, lab.pod().path, network="back")
    with pytest.raises(NotFound, match="no such network"):
        network.connect(ONE, pod.path, network="nowhere")
    with pytest.raises(AlreadyExists, match="sandbox 222222222222 has it"):
        network.connect(ONE, pod.path, network="back", options=AttachmentOptions(addresses=("10.9.0.2",)))
    for bad in (("10.8.0.9",), ("fd00:9::5", "10.9.0.6")):
        with pytest.raises(InvalidArgument, match="assign address"):
            network.connect(ONE, pod.path, network="back", options=AttachmentOptions(addresses=bad))
    with pytest.raises(InvalidArgument, match="means a host itself"):
        network.connect(ONE, pod.path, network="back", options=AttachmentOptions(aliases=("localhost",)))
    with pytest.raises(FailedPrecondition, match="it is attached to network front"):
        network.setup(ONE, pod.path, network="back")
    pod.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "peer")
    with pytest.raises(FailedPrecondition, match="another eth1"):
        network.connect(ONE, pod.path, network="back")
    assert network.attachments_of(ONE) == [first]
    assert addresses(pod) == {"eth0": list(first.addresses), "eth1": [], "peer": []}


def test_a_network_is_in_use_until_the_last_one_is_disconnected(lab: Lab, network: BuiltinNetwork) -> None:
    pod = lab.pod()
    network.setup(ONE, pod.path, network="front")
    options = AttachmentOptions(names=("host", "web", "1" * 12))
    network.connect(ONE, pod.path, network="back", options=options)
    with pytest.raises(FailedPrecondition, match="remove network back: container web is connected to it"):
        network.remove_network("back")
    network.disconnect(ONE, "back")
    network.remove_network("back")


def test_killed_between_any_lines_the_next_call_converges(lab: Lab, tmp_path: Path) -> None:
    database = str(tmp_path / "network.db")
    pod = lab.pod()
    ports = [PortMapping(container_port=80, host_port=8080)]
    names = AttachmentOptions(names=("a", "b", "c"))

    def life() -> None:
        network = BuiltinNetwork(database, name_suffix="test")
        network.connect(ONE, pod.path, network="back", options=names)
        network.disconnect(ONE, "front")
        network.connect(ONE, pod.path, network="front", options=names)
        network.disconnect(ONE, "back")

    setup = BuiltinNetwork(database, name_suffix="test")
    setup.create_network("front")
    setup.create_network("back")
    setup.setup(ONE, pod.path, network="front", port_mappings=ports, options=names)
    setup.close()
    count = 0
    for count in killed_at_every_line(life, within="oakum/network", step=173):
        after = BuiltinNetwork(database, name_suffix="test")
        try:
            front = after.connect(ONE, pod.path, network="front", options=names)
            after.disconnect(ONE, "back")
            assert addresses(pod) == {front.interface: list(front.addresses)}, f"after line {count}"
            assert ways_out(pod) == list(front.gateways), f"after line {count}"
            assert talk(lab.host, "127.0.0.1", 8080, pod.listen("0.0.0.0", 80)) == front.gateways[0]
            assert [due.sandbox_id for due in after.due("names")] == [ONE], "its hosts file is to be written"
            after.settle(after.due("names"))
        finally:
            pod.disconnect()
            after.close()
        oaks = {link["ifname"] for link in lab.ip("link") if link["ifname"].startswith("oak")}
        assert len(oaks) == 3, f"two bridges and a link, after line {count}: {oaks}"
    assert count > 1000
