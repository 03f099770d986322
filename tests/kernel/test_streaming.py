# SPDX-License-Identifier: Apache-2.0
"""Exec, attach and port-forward into real containers: what a remote client sees of them, in every protocol."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oakum.backend.config import NamespaceOptions
from oakum.linux.netns import inside, open_netns
from oakum.streaming.requests import AttachRequest, ExecRequest, ForwardRequest, Wanted
from oakum.streaming.server import StreamingServer
from tests.support.engines import SLEEP, Lab
from tests.support.leaks import cgroup_mounts
from tests.support.patience import eventually
from tests.support.streams import Command, ForwardClient

PROTOCOLS = ["spdy4", "v5.channel.k8s.io"]
SIZE = 64 << 20
ALL = Wanted(stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[StreamingServer]:
    with StreamingServer(lab.cri) as running:
        # its pool of threads and the like are there before anything is counted
        with lab.pod("first") as pod:
            container = lab.started(pod)
            execute(running, container, "spdy4", "true").finish()
        yield running


def execute(
    server: StreamingServer,
    container: str,
    protocol: str,
    script: str,
    wanted: Wanted = ALL,
    *,
    windows: bool = True,
) -> Command:
    url = server.url(ExecRequest(container, ("sh", "-c", script), wanted))
    return Command(url, protocol, stdin=wanted.stdin, stderr=wanted.stderr, tty=wanted.tty, windows=windows)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "spdy1", "channel.k8s.io", "v4.base64.channel.k8s.io"])
def test_a_command_with_input_output_and_status(lab: Lab, server: StreamingServer, protocol: str) -> None:
    with lab.pod("exec") as pod:
        container = lab.started(pod)
        client = execute(
            server, container, protocol, "read line; echo got $line; echo err >&2; hostname; exit 7"
        )
        client.send(b"hello\n")
        done = client.finish()
        assert done.stdout.splitlines()[0] == b"got hello"
        assert done.stderr == b"err\n"
        assert b"7" in done.error


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_that_cannot_run_says_why(lab: Lab, server: StreamingServer, protocol: str) -> None:
    with lab.pod("no") as pod:
        container = lab.started(pod)
        url = server.url(ExecRequest(container, ("no-such-command",), Wanted(stdout=True, stderr=True)))
        done = Command(url, protocol).finish()
        assert "no-such-command" in done.status["message"]
        lab.cri.stop_container(container, timeout_s=0)
        url = server.url(ExecRequest(container, ("true",), Wanted(stdout=True, stderr=True)))
        assert "exited" in Command(url, protocol).finish().status["message"]


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_much_comes_out_whole(lab: Lab, server: StreamingServer, protocol: str, windows: bool) -> None:
    with lab.pod("out") as pod:
        container = lab.started(pod)
        script = f"head -c {SIZE} /dev/zero | tr '\\0' x; echo end >&2; exit 3"
        client = execute(
            server, container, protocol, script, Wanted(stdout=True, stderr=True), windows=windows
        )
        client.keep = False
        done = client.finish()
        assert (client.counts[1], client.counts[2], done.exit_code) == (SIZE, 4, 3)


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_much_goes_in_whole(lab: Lab, server: StreamingServer, protocol: str, windows: bool) -> None:
    with lab.pod("in") as pod:
        container = lab.started(pod)
        client = execute(server, container, protocol, "md5sum; exit 3", windows=windows)
        block, md5 = os.urandom(1 << 20), hashlib.md5()
        for _ in range(SIZE >> 20):
            client.send(block)
            md5.update(block)
            client.step()
            while client.waiting_bytes > 4 << 20:
                client.step()
        client.end_input()
        done = client.finish()
        assert done.stdout.split()[0].decode() == md5.hexdigest()
        assert done.exit_code == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_terminal_from_its_first_size_to_its_hangup(
    lab: Lab, server: StreamingServer, protocol: str
) -> None:
    with lab.pod("tty") as pod:
        container = lab.started(pod)
        client = execute(server, container, protocol, "echo ready; exec sh -i", TERMINAL)
        client.resize(33, 99)
        client.until(lambda: b"ready" in client.received[1])
        client.send(b"stty size; tty\n")
        client.until(lambda: b"33 99\r\n/dev/pts/0" in client.received[1])
        client.resize(44, 111)
        client.flush()
        client.send(b"stty size\n")
        client.until(lambda: b"44 111" in client.received[1])
        client.send(b"sleep 1000\n")
        client.flush()
        eventually(lambda: "sleep 1000" in lab.run(container, "ps"))
        client.close()
        # SIGHUP ends the shell and its job
        eventually(lambda: "sleep 1000" not in lab.run(container, "ps"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exec_ends_with_its_container(lab: Lab, server: StreamingServer, protocol: str) -> None:
    with lab.pod("end") as pod:
        container = lab.started(pod)
        client = execute(server, container, protocol, "echo ready; exec sleep 1000")
        client.until(lambda: client.received[1])
        lab.cri.stop_container(container, timeout_s=0)
        assert client.finish().exit_code == 128 + signal.SIGKILL


def test_an_exec_ends_with_its_pod(lab: Lab, server: StreamingServer) -> None:
    with lab.pod("gone") as pod:
        container = lab.started(pod)
        client = execute(server, container, "spdy4", "echo ready; exec sleep 1000")
        client.until(lambda: client.received[1])
        lab.cri.remove_sandbox(pod)
        assert client.finish().status["status"] == "Failure"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_attach_from_input_to_the_end_of_the_container(
    lab: Lab, server: StreamingServer, protocol: str
) -> None:
    with lab.pod("attach") as pod:
        script = "echo before; cat; echo bye; exit 3"
        container = lab.started(pod, "c", script, stdin=True, stdin_once=True)
        client = Command(server.url(AttachRequest(container, ALL)), protocol, stdin=True)
        client.send(b"hello\n")
        client.until(lambda: b"hello\n" in client.received[1])
        client.end_input()
        done = client.finish()
        assert done.stdout.endswith(b"hello\nbye\n")
        assert done.exit_code == 0
        eventually(lambda: lab.cri.container_status(container).exit_code == 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_much_through_an_attach_with_input_is_whole(lab: Lab, server: StreamingServer, protocol: str) -> None:
    with lab.pod("cat") as pod:
        container = lab.started(pod, "c", "exec cat", stdin=True, stdin_once=True, log_path="")
        client = Command(server.url(AttachRequest(container, ALL)), protocol, stdin=True)
        block, sent, size = os.urandom(1 << 18), hashlib.sha256(), 16 << 20
        for _ in range(size // len(block)):
            client.send(block)
            sent.update(block)
            client.step()
        client.until(lambda: len(client.received[1]) == size, within_s=60)
        assert hashlib.sha256(client.received[1]).digest() == sent.digest()
        client.end_input()
        assert client.finish().exit_code == 0


def test_an_attached_terminal_has_a_size_and_outlives_its_client(lab: Lab, server: StreamingServer) -> None:
    with lab.pod("atty") as pod:
        container = lab.started(pod, "c", "exec sh -i", stdin=True, tty=True)
        for rows, columns in ((20, 60), (40, 90)):
            client = Command(
                server.url(AttachRequest(container, TERMINAL)), "spdy4", stdin=True, stderr=False, tty=True
            )
            client.resize(rows, columns)
            client.flush()
            # the size is on its way beside the input
            client.send(f"until stty size | grep '^{rows} {columns}'; do sleep 0.05; done\n".encode())
            client.until(lambda c=client, r=rows, w=columns: f"{r} {w}\r\n".encode() in c.received[1])
            client.close()
        assert lab.cri.container_status(container).state == "running"


@contextmanager
def serving(lab: Lab, name: str, **fields: Any) -> Iterator[tuple[str, str]]:
    """A pod with a web server of busybox on port 80, on all its addresses."""
    with lab.pod(name, **fields) as pod:
        script = f"mkdir /www; head -c {SIZE} /dev/zero | tr '\\0' y > /www/big; echo hi > /www/small; "
        container = lab.started(pod, "c", f"{script} httpd -p 8123 -h /www; {SLEEP}")
        eventually(lambda: "8123" in lab.run(container, "netstat", "-ltn"))
        yield pod, container


def get(client: ForwardClient, path: str, port: int = 8123) -> bytes:
    stream = client.connect(port)
    client.session.send(stream, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    client.session.finish(stream)
    client.until(lambda: client.gone(stream), within_s=60)
    return bytes(client.data[stream]).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("tunnel", [False, True])
def test_a_forward_into_a_pod(lab: Lab, server: StreamingServer, tunnel: bool, windows: bool) -> None:
    with serving(lab, "web") as (pod, _):
        client = ForwardClient(server.url(ForwardRequest(pod)), tunnel=tunnel, windows=windows)
        # nothing of this is on the host's own loopback
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 8123), timeout=5)
        assert get(client, "/small") == b"hi\n"
        nobody = client.connect(81)
        client.until(lambda: client.gone(nobody))
        assert nobody in client.was_reset
        assert get(client, "/big") == b"y" * SIZE
        streams = [client.connect(8123) for _ in range(8)]
        for stream in streams:
            client.session.send(stream, b"GET /small HTTP/1.0\r\n\r\n")
        client.until(lambda: all(client.gone(stream) for stream in streams))
        assert all(client.data[stream].endswith(b"hi\n") for stream in streams)
        client.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_forward_to_one_family_only(
    lab: Lab, server: StreamingServer, family: socket.AddressFamily
) -> None:
    address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with lab.pod("family") as pod:
        netns_path = lab.cri.sandbox_status(pod).netns_path

        def listen() -> socket.socket:
            sock = socket.socket(family, socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, 8200))
            sock.listen()
            return sock

        with open_netns(netns_path) as netns:
            listener = inside(netns.fileno(), listen)
        client = ForwardClient(server.url(ForwardRequest(pod)))
        stream = client.connect(8200)
        client.session.send(stream, b"hello")
        client.flush()
        with listener, listener.accept()[0] as accepted:
            accepted.settimeout(60)
            assert accepted.recv(100) == b"hello"
            accepted.sendall(b"there")
            client.until(lambda: client.data[stream] == b"there")
        client.close()


def test_a_forward_into_a_pod_of_the_hosts_network(lab: Lab, server: StreamingServer) -> None:
    with serving(lab, "host", namespaces=NamespaceOptions(network="node")) as (pod, _):
        client = ForwardClient(server.url(ForwardRequest(pod)))
        assert get(client, "/small") == b"hi\n"
        client.close()


def test_a_forward_to_a_pod_that_ends_says_so(lab: Lab, server: StreamingServer) -> None:
    with lab.pod("ends") as pod:
        lab.started(pod)
        client = ForwardClient(server.url(ForwardRequest(pod)))
        lab.cri.stop_sandbox(pod)
        stream = client.connect(80)
        client.until(lambda: client.gone(stream))
        assert b"not ready" in client.errors[stream]
        client.close()


def test_many_commands_at_once_leave_nothing_behind(lab: Lab, server: StreamingServer) -> None:
    with lab.pod("many") as pod:
        container = lab.started(pod)
        before = len(os.listdir("/proc/self/fd"))
        clients = [
            execute(server, container, PROTOCOLS[number % 2], f"echo {number}; exit {number}")
            for number in range(24)
        ]
        for number, client in enumerate(clients):
            done = client.finish()
            assert (done.stdout, done.exit_code) == (f"{number}\n".encode(), number)
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
        # nor in the shim: what it keeps of an exec, its cgroup, goes with the fetched record
        group = lab.cri.container_status(container).cgroup_path
        kept = [path for mount in cgroup_mounts() for path in Path(f"{mount}{group}").glob("oakum-exec-*")]
        assert kept == []
