# SPDX-License-Identifier: Apache-2.0
"""Exec, attach and port-forward into Docker's containers as a remote client sees them, and what they use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.docker.backend import DockerBackend
from oakum.errors import CommandNotRunnable
from oakum.network.settings import NetworkSettings
from oakum.streaming.requests import AttachRequest, ExecRequest, ForwardRequest, Wanted
from oakum.streaming.server import StreamingServer
from tests.kernel.oci_cli_box import IMAGE, image_archive
from tests.support.docker_peer import DockerPeer
from tests.support.installations import end_installation
from tests.support.patience import eventually
from tests.support.streams import Command, ForwardClient

PROTOCOLS = ["spdy4", "v5.channel.k8s.io"]
SIZE = 8 << 20
ALL = Wanted(stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)


class Node:
    """One pod on a dockerd, and the streaming server over it."""

    def __init__(self, backend: DockerBackend, server: StreamingServer) -> None:
        self.backend = backend
        self.server = server
        self.pod = backend.run_sandbox(SandboxConfig(metadata=SandboxMetadata(name="p", uid="p")))
        self.sleeper = self.container("sleeper", "sleep 1000")

    @contextmanager
    def running(self, name: str, script: str, *, tty: bool = False, stdin: bool = False) -> Generator[str]:
        """A container for as long as it is needed."""
        container = self.container(name, script, tty=tty, stdin=stdin)
        yield container
        self.backend.remove_container(container)

    def container(self, name: str, script: str, *, tty: bool = False, stdin: bool = False) -> str:
        config = ContainerConfig(
            metadata=ContainerMetadata(name=name),
            image=IMAGE,
            command=("sh", "-c", script),
            tty=tty,
            stdin=stdin,
            stdin_once=stdin and not tty,
        )
        container = self.backend.create_container(self.pod, config)
        self.backend.start_container(container)
        return container

    def execute(self, protocol: str, script: str, wanted: Wanted = ALL) -> Command:
        url = self.server.url(ExecRequest(self.sleeper, ("sh", "-c", script), wanted))
        return Command(url, protocol, stdin=wanted.stdin, stderr=wanted.stderr, tty=wanted.tty)

    def processes(self) -> str:
        return self.backend.exec_sync(self.sleeper, ["ps"], timeout_s=30).stdout.decode()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("ds")
    for name in ("root", "state"):
        (directory / name).mkdir()
    with DockerPeer(str(directory / "d")) as peer:
        peer.docker("load", "--input", str(image_archive(directory / "image.tar")))
        peer.keep_host_namespace()
        backend = DockerBackend(
            peer.host,
            root=str(directory / "root"),
            state=str(directory / "state"),
            network=NetworkSettings("builtin"),
        )
        backend.start(print)
        with StreamingServer(backend) as server:
            found = Node(backend, server)
            # the server's pool of threads is there before anything is counted
            found.execute("spdy4", "true").finish()
            yield found
            backend.remove_sandbox(found.pod)
        backend.close()
    end_installation(str(directory / "root"), str(directory / "state"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_with_input_output_and_status(node: Node, protocol: str) -> None:
    client = node.execute(protocol, "read line; echo got $line; echo err >&2; exit 7")
    client.send(b"hello\n")
    done = client.finish()
    assert (done.stdout, done.stderr, done.exit_code) == (b"got hello\n", b"err\n", 7)


def test_much_goes_in_and_comes_out_whole(node: Node) -> None:
    client = node.execute("v5.channel.k8s.io", "md5sum; exit 3")
    block, md5 = os.urandom(1 << 20), hashlib.md5()
    for _ in range(SIZE >> 20):
        client.send(block)
        md5.update(block)
        client.step()
    client.end_input()
    done = client.finish()
    assert (done.stdout.split()[0].decode(), done.exit_code) == (md5.hexdigest(), 3)
    client = node.execute(
        "spdy4", f"head -c {SIZE} /dev/zero; echo end >&2; exit 3", Wanted(stdout=True, stderr=True)
    )
    client.keep = False
    done = client.finish()
    assert (client.counts[1], client.counts[2], done.exit_code) == (SIZE, 4, 3)


def test_a_command_that_cannot_run_says_why_and_has_a_shells_exit_code(node: Node) -> None:
    url = node.server.url(ExecRequest(node.sleeper, ("no-such-command",), Wanted(stdout=True, stderr=True)))
    assert "no-such-command" in Command(url, "spdy4").finish().status["message"]
    for command, code in (("no-such-command", 127), ("/etc/passwd", 126)):
        with pytest.raises(CommandNotRunnable) as caught:
            node.backend.exec_sync(node.sleeper, [command], timeout_s=30)
        assert caught.value.exit_code == code
    assert node.backend.exec_sync(node.sleeper, ["sh", "-c", "exit 127"], timeout_s=30).exit_code == 127


def test_a_terminal_from_its_size_to_its_hangup(node: Node) -> None:
    client = node.execute("spdy4", "echo ready; exec sh -i", TERMINAL)
    client.resize(33, 99)
    client.until(lambda: b"ready" in client.received[1])
    eventually(lambda: b"33 99" in _typed(client, b"stty size\n"))
    client.resize(44, 111)
    client.flush()
    eventually(lambda: b"44 111" in _typed(client, b"stty size\n"))
    client.send(b"sleep 1234\n")
    client.flush()
    eventually(lambda: "sleep 1234" in node.processes())
    client.close()
    # as the kernel hangs up a terminal: the shell and its job end
    eventually(lambda: "sleep 1234" not in node.processes() and "sh -i" not in node.processes())


def _typed(client: Command, line: bytes) -> bytes:
    client.send(line)
    client.step()
    return bytes(client.received[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_attach_from_input_to_the_end_of_the_container(node: Node, protocol: str) -> None:
    with node.running(f"at-{protocol[:2]}", "cat; echo bye; exit 3", stdin=True) as container:
        client = Command(node.server.url(AttachRequest(container, ALL)), protocol, stdin=True)
        client.send(b"hello\n")
        client.until(lambda: b"hello\n" in client.received[1])
        client.end_input()
        done = client.finish()
        assert done.stdout.endswith(b"hello\nbye\n")
        assert node.backend.container_status(container).exit_code == 3


def test_an_attached_terminal_has_a_size_and_outlives_its_client(node: Node) -> None:
    with node.running("tty", "exec sh -i", tty=True, stdin=True) as container:
        url = node.server.url(AttachRequest(container, TERMINAL))
        client = Command(url, "spdy4", stdin=True, stderr=False, tty=True)
        client.resize(21, 43)
        client.flush()
        eventually(lambda: b"21 43" in _typed(client, b"stty size\n"))
        client.close()
        assert node.backend.container_status(container).state == "running"


def test_a_forward_into_the_pod(node: Node) -> None:
    with node.running("web", "mkdir -p /w; echo hi > /w/small; exec httpd -f -p 8123 -h /w"):

        def get() -> bytes:
            client = ForwardClient(node.server.url(ForwardRequest(node.pod)))
            stream = client.connect(8123)
            client.session.send(stream, b"GET /small HTTP/1.0\r\n\r\n")
            client.session.finish(stream)
            client.until(lambda: client.gone(stream))
            answer = bytes(client.data[stream])
            client.close()
            return answer.partition(b"\r\n\r\n")[2]

        eventually(lambda: get() == b"hi\n")


def test_what_a_pod_and_its_containers_use(node: Node) -> None:
    with node.running("busy", "head -c 3000000 /dev/zero > /file; while :; do :; done") as busy:
        # what it has written is counted at most every ten seconds
        written = ["sh", "-c", "test $(stat -c %s /file) = 3000000"]
        eventually(lambda: not node.backend.exec_sync(busy, written, timeout_s=30).exit_code)

        def stats() -> bool:
            found = {s.id: s for s in node.backend.list_container_stats()}[busy]
            assert found.cpu
            assert found.memory
            return bool(
                found.cpu.usage_nano_cores
                and found.cpu.usage_nano_cores > 1_000_000
                and found.memory.rss_bytes
            )

        eventually(stats)
        found = node.backend.container_stats(busy)
        assert found.pids >= 1
        assert found.writable_layer
        assert found.writable_layer.used_bytes >= 3_000_000
        (pod,) = node.backend.list_sandbox_stats()
        assert {c.id for c in pod.containers} >= {busy, node.sleeper}
        assert pod.memory
        assert found.memory
        assert pod.memory.usage_bytes >= found.memory.usage_bytes // 2
        assert [i.name for i in pod.interfaces] == ["eth0"]
        (metrics,) = node.backend.list_sandbox_metrics()
        families = {m.name for m in dict(metrics.containers)[busy]}
        assert {
            "container_cpu_usage_seconds_total",
            "container_memory_rss",
            "container_fs_usage_bytes",
        } <= families
        known = {d.name for d in node.backend.metric_descriptors()}
        assert families <= known


def test_a_log_has_every_byte(node: Node, tmp_path: Path) -> None:
    # Docker's usual log driver would make something else of what is no text
    config = SandboxConfig(metadata=SandboxMetadata(name="l", uid="l"), log_directory=str(tmp_path))
    pod = node.backend.run_sandbox(config)
    try:
        script = r"printf '\377\000x\n'; head -c 40000 /dev/zero | tr '\0' y; echo; printf end >&2"
        wanted = ContainerConfig(
            metadata=ContainerMetadata(name="c"), image=IMAGE, command=("sh", "-c", script), log_path="c.log"
        )
        container = node.backend.create_container(pod, wanted)
        node.backend.start_container(container)
        eventually(lambda: node.backend.container_status(container).state == "exited")
        node.backend.remove_container(container)
    finally:
        node.backend.remove_sandbox(pod)
    lines = [line.split(b" ", 3)[1:] for line in (tmp_path / "c.log").read_bytes().split(b"\n")[:-1]]
    out = [(tag, text) for stream, tag, text in lines if stream == b"stdout"]
    assert out[0] == (b"F", b"\xff\0x")
    assert [tag for tag, _ in out[1:]] == [b"P", b"P", b"F"]
    assert b"".join(text for _, text in out[1:]) == b"y" * 40000
    assert [b"stderr", b"P", b"end"] in lines
