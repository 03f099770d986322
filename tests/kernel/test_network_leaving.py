# SPDX-License-Identifier: Apache-2.0
"""Links whose namespace something keeps after their pod has left: they go soon, and nobody gets their address before."""

from __future__ import annotations

import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.network.attachment import Attachment, AttachmentOptions
from oakum.network.builtin import BuiltinNetwork
from tests.support import network_fixtures
from tests.support.netlab import Lab
from tests.support.patience import eventually

ONE, TWO = "1" * 64, "2" * 64
# Five addresses for pods.
SMALL = "10.173.0.0/29"
FIN_WAIT1 = "04"


lab = network_fixtures.lab


@pytest.fixture
def network(lab: Lab, tmp_path: Path) -> Iterator[BuiltinNetwork]:
    made = BuiltinNetwork(str(tmp_path / "network.db"), name_suffix="test")
    made.create_network("default", subnets=[SMALL])
    yield made
    made.close()


def is_there(attached: Attachment) -> bool:
    return attached.host_interface in {name for _, name in socket.if_nameindex()}


def unanswered(lab: Lab, network: BuiltinNetwork) -> Attachment:
    """A pod that has ended with a connection whose end nobody acknowledges, which keeps its namespace for minutes."""
    pod = lab.pod()
    attached = network.setup(ONE, pod.path)
    server = lab.host.listen(attached.gateways[0], 80)
    near = pod.connect(attached.gateways[0], 80)
    far, _ = server.accept()
    lab.shell(f"ip route add blackhole {attached.address}/32")
    # A reset, so that the host's end waits for nothing.
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.sendall(b"ahoy")
    near.close()
    states = [line.split()[3] for line in pod.run("cat", "/proc/net/tcp").splitlines()[1:]]
    assert states == [FIN_WAIT1]
    far.close()
    server.close()
    pod.close()
    return attached


def test_a_link_whose_namespace_is_kept_is_deleted_in_the_background(
    lab: Lab, network: BuiltinNetwork
) -> None:
    left = unanswered(lab, network)
    network.teardown(ONE)
    eventually(lambda: not is_there(left), "its link is gone")
    eventually(lambda: network._parts.database.leaving() == [], "its address is free")


def test_an_address_is_given_on_once_the_old_link_is_gone(lab: Lab, network: BuiltinNetwork) -> None:
    left = unanswered(lab, network)
    network.teardown(ONE)
    pod = lab.pod()
    attached = network.setup(TWO, pod.path, options=AttachmentOptions(addresses=(left.address,)))
    assert attached.address == left.address
    assert not is_there(left)
    lab.shell(f"ip route del blackhole {attached.address}/32")
    server = pod.listen(attached.address, 80)
    with lab.host.connect(attached.address, 80), server.accept()[0]:
        pass


def test_the_last_address_is_one_of_a_link_that_is_to_go(lab: Lab, network: BuiltinNetwork) -> None:
    left = unanswered(lab, network)
    for number in range(4):
        network.begin(f"other-{number}", "/none")
    network.teardown(ONE)
    network.begin(TWO, "/none")
    assert [each.address for each in network.attachments_of(TWO)] == [left.address]
    assert not is_there(left)


def test_a_sandbox_that_comes_back_keeps_its_new_link(lab: Lab, network: BuiltinNetwork) -> None:
    left = unanswered(lab, network)
    network.teardown(ONE)
    complete = network.begin(ONE, (pod := lab.pod()).path)
    network._leaving.sweep(delete_after_s=0)
    attached = complete()
    network._leaving.sweep(delete_after_s=0)
    assert attached.host_interface == left.host_interface
    assert attached.address != left.address
    server = pod.listen(attached.address, 80)
    with lab.host.connect(attached.address, 80), server.accept()[0]:
        pass
    with network._guard:
        assert network._parts.database.leaving() == []


@pytest.mark.parametrize("how", ["begin", "gc"])
def test_what_a_killed_process_left_is_deleted_by_the_next(
    lab: Lab, network: BuiltinNetwork, how: str
) -> None:
    left = unanswered(lab, network)
    program = (
        "import os, signal, sys\nfrom oakum.network.builtin import BuiltinNetwork\n"
        "BuiltinNetwork(sys.argv[1], name_suffix='test').teardown(sys.argv[2])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = network._parts.path
    subprocess.run([sys.executable, "-c", program, path, ONE], check=False)
    assert network.attachments() == []
    assert is_there(left)
    if how == "gc":
        network.gc([])
    else:
        network.begin("young", "/none")
        assert is_there(left), "its process may be there yet, and do it"
        with sqlite3.connect(path) as database:
            database.execute("UPDATE leaving SET since_s = since_s - 60")
        database.close()
        network.begin(TWO, "/none")
    assert not is_there(left)
    assert network._parts.database.leaving() == []


def test_a_network_that_is_removed_takes_such_a_link_along(lab: Lab, network: BuiltinNetwork) -> None:
    left = unanswered(lab, network)
    network.teardown(ONE)
    lab.shell(f"ip link set {left.host_interface} nomaster")
    network.remove_network("default")
    assert not is_there(left)
