# SPDX-License-Identifier: Apache-2.0
"""Pods of an engine on a node whose networks are made by CNI plugins, seen from inside and by the kubelet's calls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oakum.errors import FailedPrecondition, InvalidArgument, OakumError
from tests.conftest import Directories
from tests.support import network_fixtures
from tests.support.cni import CniBox
from tests.support.engines import Lab, laboratory, together
from tests.support.netlab import Lab as Machine
from tests.support.patience import eventually

machine = network_fixtures.machine
box = network_fixtures.module_box


@pytest.fixture(scope="module")
def lab(
    box: CniBox, module_directories: Directories, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OAKUM_CNI_CONFIG", str(box.configs))
        patch.setenv("OAKUM_CNI_PATH", ":".join(box.settings.plugin_directories))
        box.configure(*chain(box))
        with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as made:
            # What stays open from the first use of the built-in network, too.
            made.engine._context.network.create_network("warm")
            made.engine._context.network.remove_network("warm")
            yield made


@pytest.fixture(autouse=True)
def as_configured_at_first(box: CniBox, lab: Lab) -> Iterator[None]:
    for path in box.configs.iterdir():
        path.unlink()
    box.configure(*chain(box))
    (box.plugins / "calls.log").unlink(missing_ok=True)
    yield
    assert lab.engine._context.network.attachments() == []
    assert leases(box) == []


def chain(box: CniBox, **behaviour: str) -> list[dict[str, Any]]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "dns": {"nameservers": ["192.0.2.53"], "search": ["net.test"]},
        "ipam": {
            "type": "host-local",
            "dataDir": str(box.records.parent / "ipam"),
            "ranges": [[{"subnet": "10.88.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return [
        bridge,
        {**box.fake("last", **behaviour), "capabilities": {"bandwidth": True, "cgroupPath": True}},
    ]


def leases(box: CniBox) -> list[str]:
    directory = box.records.parent / "ipam" / "podnet"
    return sorted(n for n in os.listdir(directory) if n[0].isdigit()) if directory.exists() else []


def test_a_pod_lives_on_the_nodes_network(lab: Lab, box: CniBox, machine: Machine) -> None:
    with lab.pod("life", annotations={"kubernetes.io/ingress-bandwidth": "10M"}) as pod:
        (address,) = lab.cri.sandbox_status(pod).addresses
        assert leases(box) == [address]
        container = lab.started(pod)
        assert f"inet {address}/24" in lab.run(container, "ip", "addr", "show", "eth0")
        assert "default via 10.88.0.1" in lab.run(container, "ip", "route")
        assert lab.run(container, "cat", "/etc/resolv.conf").split() == [
            "nameserver", "192.0.2.53", "search", "net.test",
        ]  # fmt: skip
        assert f"{address}\tlife" in lab.run(container, "cat", "/etc/hosts").replace(pod[:12], "life")
        lab.run(container, "ping", "-c1", "-W2", "10.88.0.1")
        (counters,) = lab.cri.sandbox_stats(pod).interfaces
        assert counters.rx_bytes > 0
        (told,) = [c for c in box.calls("ADD") if c["environment"]["CNI_CONTAINERID"] == pod]
        assert f"K8S_POD_NAME=life;K8S_POD_INFRA_CONTAINER_ID={pod}" in told["environment"]["CNI_ARGS"]
        assert told["config"]["runtimeConfig"]["bandwidth"]["ingressRate"] == 10_000_000
        namespace = os.readlink(f"/proc/{lab.cri.container_status(container).pid}/ns/net")
        lab.cri.stop_sandbox(pod)
        (ended,) = box.calls("DEL")
        assert ended["environment"]["CNI_NETNS"] == lab.engine._context.layout.pod(pod) + "/ns/net"
        assert namespace.startswith("net:")
        assert leases(box) == []
    assert [link["ifname"] for link in machine.ip("link") if link["ifname"].startswith("veth")] == []


def test_network_ready_says_why_not(lab: Lab, box: CniBox) -> None:
    def network() -> tuple[bool, str]:
        (found,) = [c for c in lab.cri.runtime_status(verbose=False).conditions if c.type == "NetworkReady"]
        return found.status, found.message

    assert network() == (True, "")
    (box.configs / "05-broken.conflist").write_text("{")
    ready, why = network()
    assert not ready
    assert "05-broken.conflist: no JSON" in why
    with pytest.raises(InvalidArgument, match="05-broken"):
        lab.cri.run_sandbox(lab.sandbox("broken"))
    (box.configs / "05-broken.conflist").unlink()
    box.configure({"type": "nowhere"})
    ready, why = network()
    assert not ready
    assert "find CNI plugin 'nowhere'" in why


def test_a_failing_add_fails_the_pod_and_leaves_nothing(lab: Lab, box: CniBox) -> None:
    box.behave("last", ADD="code 11")
    before = len(lab.cri.list_sandboxes())
    with pytest.raises(OakumError, match="CNI ADD plugin last of network podnet: code 11: the message"):
        lab.cri.run_sandbox(lab.sandbox("failing"))
    assert len(lab.cri.list_sandboxes()) == before
    assert lab.engine._context.store.unsettled() == ([], [])


def test_a_failing_del_fails_the_stop_until_it_succeeds(lab: Lab, box: CniBox) -> None:
    with lab.pod("stuck") as pod:
        box.behave("last", DEL="code 100")
        for _ in range(2):
            with pytest.raises(OakumError, match="CNI DEL plugin last of network podnet: code 100"):
                lab.cri.stop_sandbox(pod)
        assert leases(box) != []
        box.behave("last")
        lab.cri.stop_sandbox(pod)
        assert leases(box) == []
        assert lab.cri.sandbox_status(pod).state == "not_ready"


def test_what_a_failed_pod_still_owes_is_paid_without_it(lab: Lab, box: CniBox) -> None:
    box.behave("last", ADD="exit", DEL="exit")
    with pytest.raises(OakumError, match=r"CNI ADD .* undoing it failed, too, and is repeated"):
        lab.cri.run_sandbox(lab.sandbox("owing"))
    assert lab.engine._context.store.unsettled() == ([], [])
    assert leases(box) != []
    box.behave("last")
    eventually(lambda: not lab.engine._context.network.attachments())


def test_a_killed_servers_pods_are_recovered(lab: Lab, box: CniBox) -> None:
    """A row in state creating whose worker is dead, with a record of an ADD that may or may not have happened."""
    pod = lab.cri.run_sandbox(lab.sandbox("half"))
    store = lab.engine._context.store
    record = store.sandbox(pod)
    assert record is not None
    store.update_sandbox(msgspec.structs.replace(record, phase="creating"))
    attachment = box_record(lab, pod)
    attachment.write_text(attachment.read_text().replace('"phase": "added"', '"phase": "adding"'))
    assert [line for line in lab.engine.recover() if "half made, undone" in line]
    assert store.sandbox(pod) is None


def box_record(lab: Lab, pod: str) -> Path:
    return Path(lab.engine._context.layout.cni) / "attachments" / f"{pod}.json"


def test_a_node_that_becomes_a_cni_node_keeps_its_pods(lab: Lab, box: CniBox) -> None:
    for path in box.configs.iterdir():
        path.unlink()
    with lab.pod("before") as old:
        (first, *_) = lab.cri.sandbox_status(old).addresses
        assert not first.startswith("10.88.")
        box.configure(*chain(box))
        with lab.pod("after") as new:
            assert lab.cri.sandbox_status(new).addresses[0].startswith("10.88.")
            assert {s.id for s in lab.cri.list_sandbox_stats() if s.interfaces} >= {old, new}
            assert {a.sandbox_id for a in lab.engine._context.network.attachments()} == {old, new}
        assert lab.cri.sandbox_status(old).addresses[0] == first


def test_a_bad_rate_is_refused_before_anything_is_made(lab: Lab, box: CniBox) -> None:
    with pytest.raises(InvalidArgument, match="'quick' is no quantity"):
        lab.cri.run_sandbox(lab.sandbox("rate", annotations={"kubernetes.io/egress-bandwidth": "quick"}))
    assert box.calls("ADD") == []


def test_thirty_pods_at_once_then_nothing_is_left(lab: Lab, box: CniBox, machine: Machine) -> None:
    pods = together(30, lambda number: lab.cri.run_sandbox(lab.sandbox(f"many-{number}")))
    assert not [pod for pod in pods if isinstance(pod, Exception)]
    assert len(leases(box)) == 30
    gone = together(30, lambda number: lab.cri.remove_sandbox(str(pods[number])))
    assert not [each for each in gone if each is not None]
    assert leases(box) == []
    assert os.listdir(lab.engine._context.layout.cni + "/attachments") == []
    assert [link["ifname"] for link in machine.ip("link") if link["ifname"].startswith("veth")] == []


def test_named_networks_are_built_in_and_cni_ones_are_not_made_by_us(lab: Lab, box: CniBox) -> None:
    network = lab.engine._context.network
    network.create_network("back")
    try:
        with lab.pod("named", network="back") as pod:
            assert not lab.cri.sandbox_status(pod).addresses[0].startswith("10.88.")
            names = {(info.name, info.driver) for info in network.list_networks()}
            assert {("podnet", "cni"), ("back", "bridge")} <= names
        with lab.pod("by-name", network="podnet") as pod:
            assert lab.cri.sandbox_status(pod).addresses[0].startswith("10.88.")
        with pytest.raises(FailedPrecondition, match="is attached"), lab.pod("named", network="back"):
            network.remove_network("back")
    finally:
        network.remove_network("back")
