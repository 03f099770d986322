# SPDX-License-Identifier: Apache-2.0
"""Many pods started and stopped at once, on the built-in network and on CNI plugins: afterwards nothing is left of them.

`OAKUM_TESTS_PODS` says how many (200 on the built-in network, 20 with plugins, each of which is some processes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.backend.config import PortMapping
from tests.conftest import Directories
from tests.kernel.test_cni_plugins import bridge
from tests.support import network_fixtures
from tests.support.cni import CniBox
from tests.support.engines import Lab, laboratory, together
from tests.support.netlab import Lab as Machine
from tests.support.patience import eventually

_PODS = os.environ.get("OAKUM_TESTS_PODS", "")


machine = network_fixtures.machine
box = network_fixtures.module_box


@pytest.fixture(scope="module")
def lab(
    box: CniBox, module_directories: Directories, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OAKUM_CNI_CONFIG", str(box.configs))
        with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as made:
            yield made


def storm(lab: Lab, machine: Machine, number_of: int) -> None:
    """Start all at once, and end all at once, every other one in one step."""

    def start(number: int) -> str:
        port = PortMapping(container_port=80, host_port=20000 + number)
        return lab.cri.run_sandbox(lab.sandbox(f"storm-{number}", port_mappings=(port,)))

    def end(number: int) -> None:
        if number % 2:
            lab.cri.stop_sandbox(pods[number])
        lab.cri.remove_sandbox(pods[number])

    pods = [str(each) for each in without_failure(together(number_of, start))]
    found = {each.id: each for each in lab.cri.list_sandboxes()}
    assert len({found[pod].addresses[0] for pod in pods}) == number_of
    layout = lab.engine._context.layout
    live = {f"net:[{os.stat(f'{layout.pod(pod)}/ns/net').st_ino}]" for pod in pods}
    assert len(live & namespaces()) == number_of
    assert len(links(machine)) == number_of
    without_failure(together(number_of, end))
    assert lab.engine._context.network.attachments() == []
    for directory in (layout.pods, layout.sandboxes, layout.locks):
        assert os.listdir(directory) == []
    eventually(lambda: not namespaces() & live, "no process or mount holds a namespace", timeout_s=60)
    eventually(lambda: links(machine) == [], "the links are gone with their namespaces", timeout_s=60)


def without_failure(outcomes: list[object]) -> list[object]:
    assert [each for each in outcomes if isinstance(each, Exception)] == []
    return outcomes


def links(machine: Machine) -> list[str]:
    """The host's ends of pods' links: all of that kind but the way out."""
    return [link["ifname"] for link in machine.ip("link show type veth") if link["ifname"] != "up0"]


def namespaces() -> set[str]:
    """The network namespaces that processes are in or mounts hold."""
    found: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or none of ours
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if " - nsfs " in line and words[3].startswith("net:"):
                found.add(words[3])
    return found


def test_pods_at_once_on_the_built_in_network(lab: Lab, machine: Machine) -> None:
    storm(lab, machine, int(_PODS or 200))
    listed = machine.nft("ruleset")
    elements = [each["map"]["elem"] for each in listed if "map" in each and each["map"].get("elem")]
    assert elements == []


def test_pods_at_once_with_plugins(lab: Lab, box: CniBox, machine: Machine) -> None:
    box.configure(bridge(box), {"type": "portmap", "capabilities": {"portMappings": True}})
    try:
        storm(lab, machine, int(_PODS or 20))
        assert os.listdir(f"{lab.engine._context.layout.cni}/attachments") == []
        leases = Path(box.records.parent / "ipam" / "podnet")
        assert [name for name in os.listdir(leases) if name[0].isdigit()] == []
        rules = machine.shell("iptables-save; ip6tables-save")
        assert "CNI-DN-" not in rules
        assert "--dport 2" not in rules
    finally:
        for path in box.configs.iterdir():
            path.unlink()
