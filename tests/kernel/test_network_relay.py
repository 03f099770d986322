# SPDX-License-Identifier: Apache-2.0
"""Ports on the host's ::1: the pod's own relay carries what the kernel does not, for as long as the pod lives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from oakum.backend.config import NetworkRequest, PortMapping, Protocol, SandboxConfig, SandboxMetadata
from oakum.errors import AlreadyExists, InvalidArgument, Unimplemented
from oakum.linux.netns import inside, open_netns
from tests.support.engines import SLEEP, Lab
from tests.support.patience import eventually
from tests.support.ports import free_port

LOOPBACK = "::1"


def on_loopback(port: int, inner: int = 80, protocol: Protocol = "tcp") -> PortMapping:
    return PortMapping(container_port=inner, host_port=port, protocol=protocol, host_ip=LOOPBACK)


@contextlib.contextmanager
def listening(
    lab: Lab, pod: str, address: str = "::", port: int = 80, kind: int = socket.SOCK_STREAM
) -> Iterator[socket.socket]:
    """A server in a pod; of this process, so that it cannot be slow to start."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with open_netns(f"{lab.engine.state}/pods/{pod}/ns/net") as netns:
        server = inside(netns.fileno(), lambda: socket.socket(family, kind))
    with server:
        server.settimeout(20)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        if kind == socket.SOCK_STREAM:
            server.listen()
        yield server


def talk(port: int, server: socket.socket) -> None:
    """Words both ways by a port on ::1."""
    with socket.create_connection((LOOPBACK, port), timeout=20) as near:
        far, _ = server.accept()
        with far:
            far.settimeout(20)
            near.sendall(b"ahoy")
            assert far.recv(16) == b"ahoy"
            far.sendall(b"aye")
            assert near.recv(16) == b"aye"


def is_reset(port: int) -> bool:
    """Whether a connection is made and torn down, which nobody takes for an answer that is empty."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=20) as near:
            near.recv(1)
    except ConnectionResetError:
        return True
    return False


def find_relay(pod: str) -> int:
    """The process id of a pod's relay; 0 for none."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
            if file.read().startswith(f"oakum relay {pod}"[:40].encode()):
                return int(entry)
    return 0


def relay_of(pod: str) -> int:
    """The process id of a pod's relay, once it has its name."""
    eventually(lambda: find_relay(pod) > 0)
    return find_relay(pod)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_port_on_the_v6_loopback_answers_whatever_the_server_listens_on(lab: Lab, address: str) -> None:
    port = free_port()
    with lab.pod("either", port_mappings=(on_loopback(port),)) as pod:
        with listening(lab, pod, address) as server:
            for _ in range(3):
                talk(port, server)
        assert is_reset(port), "nobody listens in the pod"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, port), timeout=20)
    eventually(lambda: not find_relay(pod))


def test_each_side_may_end_first_and_nothing_is_lost(lab: Lab) -> None:
    port = free_port()
    data = os.urandom(1 << 20) * 8
    with (
        lab.pod("bulk", port_mappings=(on_loopback(port),)) as pod,
        listening(lab, pod) as server,
        socket.create_connection((LOOPBACK, port), timeout=20) as near,
    ):
        far, _ = server.accept()
        with far:
            far.settimeout(20)
            for sender, receiver in ((near, far), (far, near)):

                def send(sender: socket.socket = sender) -> None:
                    sender.sendall(data)
                    sender.shutdown(socket.SHUT_WR)

                thread = threading.Thread(target=send)
                thread.start()
                received = bytearray()
                while chunk := receiver.recv(1 << 20):
                    received += chunk
                thread.join()
                assert received == data


def test_one_who_does_not_read_keeps_nobody_waiting(lab: Lab) -> None:
    port = free_port()
    with (
        lab.pod("slow", port_mappings=(on_loopback(port),)) as pod,
        listening(lab, pod) as server,
        socket.create_connection((LOOPBACK, port), timeout=20) as near,
    ):
        far, _ = server.accept()
        near.settimeout(0.5)
        with far:
            with contextlib.suppress(TimeoutError):
                while True:
                    near.sendall(bytes(1 << 20))
            for _ in range(3):
                talk(port, server)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_datagrams_go_both_ways_for_each_sender(lab: Lab, address: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with (
        lab.pod("udp", port_mappings=(on_loopback(port, 53, "udp"),)) as pod,
        listening(lab, pod, address, 53, socket.SOCK_DGRAM) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for _ in range(3)]
        for turn in range(2):
            for number, client in enumerate(clients):
                client.settimeout(20)
                client.sendto(b"%d-%d" % (turn, number), (LOOPBACK, port))
                data, peer = server.recvfrom(100)
                server.sendto(b"re " + data, peer)
                answer, origin = client.recvfrom(100)
                assert (answer, origin[:2]) == (b"re %d-%d" % (turn, number), (LOOPBACK, port))


def test_it_outlives_who_made_the_pod_and_ends_with_the_shim(lab: Lab) -> None:
    port = free_port()
    program = (
        "import sys\nfrom oakum.backend.config import *\nfrom oakum.engine.engine import Engine\n"
        "print(Engine(*sys.argv[1:3]).namespace('k8s.io').run_sandbox(SandboxConfig(\n"
        "    metadata=SandboxMetadata(name='left', uid='left'), log_directory='/tmp',\n"
        "    port_mappings=(PortMapping(container_port=80, host_port=int(sys.argv[3]), host_ip='::1'),))))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, lab.engine.root, lab.engine.state, str(port)],
        check=True,
        capture_output=True,
        text=True,
    )
    pod = made.stdout.strip()
    with listening(lab, pod) as server:
        talk(port, server)
        relay = relay_of(pod)
        with open(f"/proc/{relay}/smaps_rollup", encoding="ascii") as file:
            (own,) = [int(line.split()[1]) for line in file if line.startswith("Private_Dirty:")]
        assert own < 3000, "kB: what a pod with such ports costs more than others"
    os.kill(lab.cri.sandbox_status(pod).shim_pid, signal.SIGKILL)
    eventually(lambda: find_relay(pod) != relay)
    lab.engine.recover()
    lab.cri.remove_sandbox(pod)
    with lab.pod("next", port_mappings=(on_loopback(port),)) as other, listening(lab, other) as server:
        talk(port, server)


def test_a_relay_that_was_killed_is_said_in_the_log_and_made_anew_by_the_next_start(lab: Lab) -> None:
    port = free_port()
    config = SandboxConfig(
        metadata=SandboxMetadata(name="again"), owner="container", port_mappings=(on_loopback(port),)
    )
    container = lab.cri.create_standalone(config, lab.container("again", SLEEP, log_path=""))
    pod = lab.cri.container_status(container).sandbox_id
    try:
        os.kill(relay_of(pod), signal.SIGKILL)
        with open(f"{lab.engine.state}/pods/{pod}/shim.log") as log:
            eventually(lambda: log.seek(0) or "relay: ended with -9" in log.read())
        lab.cri.stop_sandbox(pod)
        lab.cri.rearm_container(container)
        with listening(lab, pod) as server:
            talk(port, server)
    finally:
        lab.cri.remove_container(container)


def test_it_follows_the_container_from_network_to_network(lab: Lab) -> None:
    port = free_port()
    networks = lab.engine.networks
    networks.create_network("moved")
    config = SandboxConfig(
        metadata=SandboxMetadata(name="moving"), owner="container", port_mappings=(on_loopback(port),)
    )
    container = lab.cri.create_standalone(config, lab.container("moving", SLEEP, log_path=""))
    pod = lab.cri.container_status(container).sandbox_id
    try:
        first = relay_of(pod)
        lab.cri.connect_network(container, NetworkRequest(network="moved"))
        assert relay_of(pod) == first, "nothing has changed for it"
        lab.cri.disconnect_network(container, "default")
        with listening(lab, pod) as server:
            talk(port, server)
        lab.cri.disconnect_network(container, "moved")
        assert is_reset(port), "it has no address"
        lab.cri.connect_network(container, NetworkRequest(network="default"))
        with listening(lab, pod) as server:
            talk(port, server)
    finally:
        lab.cri.remove_container(container)
        networks.remove_network("moved")


def test_what_cannot_be_published_there_is_said_before_anything_starts(lab: Lab) -> None:
    port = free_port()
    before = {status.id for status in lab.cri.list_sandboxes()}
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as holder:
        holder.bind((LOOPBACK, port))
        holder.listen()
        with pytest.raises(AlreadyExists, match="a process on this host uses it"):
            lab.cri.run_sandbox(lab.sandbox("taken", port_mappings=(on_loopback(port),)))
    with lab.pod("first", port_mappings=(on_loopback(port),)):
        for mapping in (on_loopback(port), PortMapping(container_port=80, host_port=port)):
            with pytest.raises(AlreadyExists, match="has "):
                lab.cri.run_sandbox(lab.sandbox("second", port_mappings=(mapping,)))
    with pytest.raises(Unimplemented, match="sctp from ::1 cannot be forwarded"):
        lab.cri.run_sandbox(lab.sandbox("sctp", port_mappings=(on_loopback(port, 80, "sctp"),)))
    with pytest.raises(InvalidArgument, match="asked for twice"):
        lab.cri.run_sandbox(lab.sandbox("twice", port_mappings=(on_loopback(port), on_loopback(port, 81))))
    assert {status.id for status in lab.cri.list_sandboxes()} == before
