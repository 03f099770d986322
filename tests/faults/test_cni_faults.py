# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed between a plugin's work and the record of it: another one finishes, nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import network_fixtures
from tests.support.cni import CniBox
from tests.support.lines import killed_at_every_line
from tests.support.netlab import Lab

ONE, TWO = "1" * 64, "2" * 64


lab = network_fixtures.lab
box = network_fixtures.box


def bridge(box: CniBox) -> dict[str, Any]:
    return {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(box.records.parent / "ipam"),
            "ranges": [[{"subnet": "10.88.0.0/29"}]],
        },
    }


def leases(box: CniBox) -> list[str]:
    directory = box.records.parent / "ipam" / "podnet"
    return sorted(n for n in os.listdir(directory) if n[0].isdigit()) if directory.exists() else []


def links(lab: Lab) -> list[str]:
    return [link["ifname"] for link in lab.ip("link") if link["ifname"].startswith("veth")]


@pytest.mark.timeout(600)
def test_killed_while_attaching_then_attached_by_another(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box))
    path = lab.pod().path  # of this process, not of the child that is killed
    kills = 0
    for _ in killed_at_every_line(
        lambda: box.network().setup(ONE, path), within="oakum/network/cni", step=29
    ):
        kills += 1
        network = box.network()
        attached = network.setup(ONE, path)
        assert leases(box) == [attached.address]
        assert len(links(lab)) == 1
        network.teardown(ONE)
        assert (leases(box), links(lab), box.left()) == ([], [], [])
    assert kills > 10
    box.network().teardown(ONE)


@pytest.mark.timeout(600)
def test_killed_while_detaching_then_detached_by_another(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box))
    path = lab.pod().path
    box.network().setup(ONE, path)
    kills = 0
    for _ in killed_at_every_line(lambda: box.network().teardown(ONE), within="oakum/network/cni", step=19):
        kills += 1
        network = box.network()
        network.teardown(ONE)
        assert (leases(box), links(lab), box.left()) == ([], [], [])
        network.setup(ONE, path)
    assert kills > 10
    assert (leases(box), links(lab), box.left()) == ([], [], [])


def test_killed_between_add_and_the_record_of_it_is_collected(lab: Lab, box: CniBox) -> None:
    box.configure(bridge(box))
    paths = [lab.pod().path, lab.pod().path]
    network = box.network()
    kept = network.setup(ONE, paths[0])

    def add_and_die() -> None:
        other = box.network()
        other._records.write = lambda record, *, durable=False, write=other._records.write: (  # type: ignore[method-assign]
            write(record, durable=durable)
            if record.phase == "adding"
            else os.kill(os.getpid(), signal.SIGKILL)
        )
        other.setup(TWO, paths[1])

    child = os.fork()
    if child == 0:
        try:
            add_and_die()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(leases(box)) == 2
    assert network.gc([ONE]) == [TWO]
    assert leases(box) == [kept.address]
    network.teardown(ONE)


def test_a_plugin_that_outlives_its_killed_host_is_waited_for(lab: Lab, box: CniBox) -> None:
    """Else its ADD would come after our DEL, and stay."""
    box.configure(box.fake("only", ADD="meet 2"))
    path = lab.pod().path
    child = os.fork()
    if child == 0:
        try:
            box.network().setup(ONE, path)
        finally:
            os._exit(1)
    while not box.calls("ADD"):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    orphan = box.calls("ADD")[0]["pid"]
    assert os.path.exists(f"/proc/{orphan}")
    released = threading.Timer(0.3, box.meet, ("only", "its host's successor"))
    released.start()
    box.network().teardown(ONE)
    assert (box.plugins / "only.met" / "its host's successor").exists()
    assert not os.path.exists(f"/proc/{orphan}") or "Z" in Path(f"/proc/{orphan}/stat").read_text().split()
    assert box.told() == [("ADD", "only"), ("DEL", "only")]
    assert box.left() == []
