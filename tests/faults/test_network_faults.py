# SPDX-License-Identifier: Apache-2.0
"""A server whose network goes wrong under a kubelet: killed in the middle of a plugin's chain, pool empty, ports taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.engine.context import network_suffix
from oakum.network.builtin import BuiltinNetwork
from tests.conftest import Directories
from tests.kernel.test_cni_plugins import bridge, leases
from tests.support import network_fixtures
from tests.support.cni import CniBox
from tests.support.cri import CriClient
from tests.support.netlab import Lab
from tests.support.patience import eventually
from tests.support.server import OakumServer

lab = network_fixtures.lab
box = network_fixtures.box


READY = pb.PodSandboxStateValue(state=pb.SANDBOX_READY)


class Node:
    """A server in the laboratory's network namespace, and its kubelet."""

    def __init__(self, directories: Directories, box: CniBox) -> None:
        top = os.path.dirname(directories.root)
        environment = {
            "OAKUM_CNI_CONFIG": str(box.configs),
            "OAKUM_CNI_PATH": ":".join(box.settings.plugin_directories),
        }
        self.server = OakumServer(directories.root, directories.state, f"{top}/s", env=environment)
        self.directories = directories

    def config(self, name: str, *ports: int) -> pb.PodSandboxConfig:
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=name, namespace="faults"),
            port_mappings=[pb.PortMapping(container_port=80, host_port=port) for port in ports],
        )

    def wait_until_killed(self) -> None:
        assert self.server.daemon is not None
        self.server.daemon.process.wait(20)

    def left(self) -> list[str]:
        """What is there of pods on the disk."""
        found: list[str] = []
        for directory in (f"{self.directories.state}/pods", f"{self.directories.root}/sandboxes"):
            found += os.listdir(directory) if os.path.exists(directory) else []
        return found


@pytest.fixture
def node(lab: Lab, directories: Directories, box: CniBox) -> Iterator[Node]:
    made = Node(directories, box)
    with made.server:
        try:
            yield made
        finally:
            with made.server.client() as client:
                for pod in client.pods():
                    client.remove_pod(pod.id)


@pytest.fixture
def cri(node: Node) -> Iterator[CriClient]:
    with node.server.client() as client:
        yield client


def veths(lab: Lab) -> list[str]:
    return [link["ifname"] for link in lab.ip("link show type veth") if link["ifname"] != "up0"]


def test_killed_between_add_and_the_record_of_it(lab: Lab, node: Node, cri: CriClient, box: CniBox) -> None:
    """By the last plugin of the chain: address and link are there, and nobody has written down that they are."""
    box.configure(bridge(box), box.fake("last", ADD="kill the host"))
    with pytest.raises(grpc.RpcError):
        cri.run_pod(node.config("victim"))
    node.wait_until_killed()
    assert len(leases(box)) == 1
    assert len(veths(lab)) == 1
    box.behave("last")
    node.server.start()
    eventually(
        lambda: (leases(box), veths(lab), box_records(node), node.left()) == ([], [], [], []), "all is undone"
    )
    assert [call["command"] for call in box.calls("ADD", "DEL")] == ["ADD", "DEL"]
    pod = cri.run_pod(node.config("victim"))
    assert leases(box) == [cri.pod_status(pod).status.network.ip]
    cri.remove_pod(pod)
    assert (leases(box), box_records(node)) == ([], [])


def test_killed_between_del_and_the_removal(lab: Lab, node: Node, cri: CriClient, box: CniBox) -> None:
    """DEL has been called, also for the plugin that gave the address; the pod's removal has not begun."""
    last = box.fake("last")
    box.configure(last, bridge(box))  # so that DEL comes to it last
    pod = cri.run_pod(node.config("victim"))
    box.behave("last", DEL="kill the host")
    with pytest.raises(grpc.RpcError):
        cri.stop_pod(pod)
    node.wait_until_killed()
    assert leases(box) == []
    assert len(box_records(node)) == 1
    box.behave("last")
    node.server.start()
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    assert (veths(lab), box_records(node), node.left()) == ([], [], [])
    assert len(box.calls("DEL")) > 1
    cri.remove_pod(cri.run_pod(node.config("victim")))


def test_what_a_kubelet_does_not_wait_for_is_done_all_the_same(
    lab: Lab, node: Node, cri: CriClient, box: CniBox
) -> None:
    box.configure(bridge(box), box.fake("last", ADD="meet 2", DEL="meet 4"))

    calling = cri.runtime.RunPodSandbox.future(
        pb.RunPodSandboxRequest(config=node.config("slow")), timeout=600
    )
    eventually(lambda: box.calls("ADD"), "it is being attached")
    assert calling.cancel()
    box.meet("last", "us")
    eventually(lambda: cri.pods(state=READY), "it is made, though nobody waits")
    (pod,) = (each.id for each in cri.pods())
    assert len(box.calls("ADD")) == 1
    calling = cri.runtime.StopPodSandbox.future(pb.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=600)
    eventually(lambda: box.calls("DEL"), "it is being detached")
    assert calling.cancel()
    box.meet("last", "us again")
    eventually(lambda: (leases(box), box_records(node)) == ([], []), "it is detached, though nobody waits")
    cri.remove_pod(pod)


def test_an_empty_pool_is_said_and_serves_again(lab: Lab, node: Node, cri: CriClient) -> None:
    directories = node.directories
    builtin = BuiltinNetwork(f"{directories.root}/network.db", name_suffix=network_suffix(directories.root))
    builtin.create_network("default", subnets=["10.77.0.0/29"])
    builtin.close()
    pods = [cri.run_pod(node.config(f"p{number}")) for number in range(5)]
    for _ in range(2):
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED") as caught:
            cri.run_pod(node.config("one too many"))
        assert "all 5 addresses of the network are in use" in str(caught.value)
    assert {pod.id for pod in cri.pods()} == set(pods)
    eventually(lambda: len(os.listdir(f"{directories.state}/pods")) == 5, "nothing of it is left")
    cri.remove_pod(pods[0])
    again = cri.run_pod(node.config("one too many"))
    assert cri.pod_status(again).status.network.ip == "10.77.0.2"


def test_a_pod_whose_namespace_cannot_be_made_keeps_no_address_and_no_port(
    lab: Lab, node: Node, cri: CriClient
) -> None:
    """Both are reserved while the shim makes the namespace."""
    config = node.config("bad", 8080)
    config.linux.sysctls["net.ipv4.ip_forward"] = "nonsense"
    with pytest.raises(grpc.RpcError, match=r"set sysctl net\.ipv4\.ip_forward"):
        cri.run_pod(config)
    root = node.directories.root
    builtin = BuiltinNetwork(f"{root}/network.db", name_suffix=network_suffix(root))
    assert builtin.attachments() == []
    builtin.close()
    assert (cri.pods(), node.left(), veths(lab)) == ([], [], [])
    cri.remove_pod(cri.run_pod(node.config("good", 8080)))


@pytest.mark.parametrize("by", ["built-in", "plugins"])
def test_a_port_that_a_process_has_is_said_before_anything_is_made(
    lab: Lab, node: Node, cri: CriClient, box: CniBox, by: str
) -> None:
    if by == "plugins":
        box.configure(bridge(box), {"type": "portmap", "capabilities": {"portMappings": True}})
    with lab.host.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("0.0.0.0", 8080))
        taken.listen()
        with pytest.raises(grpc.RpcError, match="ALREADY_EXISTS") as caught:
            cri.run_pod(node.config("wants", 8080))
        assert "publish port 0.0.0.0:8080/tcp: a process on this host uses it" in str(caught.value)
        assert (cri.pods(), leases(box), veths(lab)) == ([], [], [])
        cri.remove_pod(cri.run_pod(node.config("other", 8081)))
    cri.remove_pod(cri.run_pod(node.config("wants", 8080)))


def box_records(node: Node) -> list[str]:
    try:
        return os.listdir(f"{node.directories.root}/cni/attachments")
    except FileNotFoundError:
        return []
