# SPDX-License-Identifier: Apache-2.0
"""What happens to Docker's pods when dockerd dies, hangs or loses things, and when we are killed.

A real dockerd for each test, whose containers outlive it (`live-restore`).
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.backend.status import ContainerEvent
from oakum.docker.backend import DockerBackend
from oakum.errors import DeadlineExceeded, NotFound, OakumError, Unavailable
from oakum.network.settings import NetworkSettings
from tests.kernel.oci_cli_box import IMAGE, image_archive
from tests.support.docker_peer import DockerPeer
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.images import build_image, busybox_layer
from tests.support.installations import end_installation
from tests.support.patience import eventually

_numbers = itertools.count()
# counts for ever, in lines that say which they are
COUNT = "i=0; while :; do echo $i; i=$((i+1)); usleep 500; done"


class Node:
    """A backend on the dockerd of this module; a second one on the same state stands for the next process."""

    def __init__(self, peer: DockerPeer, directory: Path) -> None:
        self.peer = peer
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.root, self.state = directory / "root", directory / "state"
        for path in (self.root, self.state):
            path.mkdir()
        self.told: list[str] = []
        self.backend = self.new()

    def new(self) -> DockerBackend:
        self.backend = DockerBackend(
            self.peer.host, root=str(self.root), state=str(self.state), network=NetworkSettings("builtin")
        )
        self.backend.start(self.told.append)
        return self.backend

    def restart(self) -> None:
        self.backend.close()
        self.new()

    def sandbox(self) -> str:
        name = f"p{next(_numbers)}"
        config = SandboxConfig(metadata=SandboxMetadata(name=name, uid=name), log_directory=str(self.logs))
        return self.backend.run_sandbox(config)

    def container(self, sandbox_id: str, script: str) -> str:
        name = f"c{next(_numbers)}"
        config = ContainerConfig(
            metadata=ContainerMetadata(name=name),
            image=IMAGE,
            command=("sh", "-c", script),
            log_path=f"{name}.log",
        )
        container_id = self.backend.create_container(sandbox_id, config)
        self.backend.start_container(container_id)
        return container_id

    def log(self, container_id: str) -> Path:
        return Path(self.backend.container_status(container_id).log_path)

    def running(self, container_id: str) -> bool:
        return self.backend.container_status(container_id).state == "running"


@pytest.fixture
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerPeer]:
    directory = tmp_path_factory.mktemp("df")
    with DockerPeer(str(directory), live_restore=True) as running:
        running.docker("load", "--input", str(image_archive(directory / "image.tar")))
        running.keep_host_namespace()
        yield running


@pytest.fixture
def node(peer: DockerPeer, tmp_path: Path) -> Iterator[Node]:
    found = Node(peer, tmp_path)
    yield found
    for sandbox in found.backend.list_sandboxes():
        found.backend.remove_sandbox(sandbox.id)
    found.backend.close()
    end_installation(str(found.root), str(found.state))


def numbers(log: Path, *rotated: Path) -> list[int]:
    """The numbers in whole lines of a log, the oldest file first."""
    text = "".join(path.read_text() for path in (*rotated, log))
    return [int(line.split(" ", 3)[3]) for line in text.split("\n")[:-1]]


def test_a_log_goes_on_over_a_killed_dockerd_a_killed_server_and_rotations(node: Node) -> None:
    pod = node.sandbox()
    container = node.container(pod, COUNT)
    log = node.log(container)
    eventually(lambda: len(numbers(log)) > 20)
    # dockerd dies and comes back; the container writes into its pipe meanwhile
    node.peer.kill()
    node.peer.start()
    seen = len(numbers(log))
    eventually(lambda: len(numbers(log)) > seen + 20, timeout_s=30)
    # a rotation by the kubelet
    first = log.with_suffix(".1")
    log.rename(first)
    node.backend.reopen_container_log(container)
    eventually(lambda: len(numbers(log)) > 20)
    # we are away, and rotated meanwhile
    node.backend.close()
    second = log.with_suffix(".2")
    log.rename(second)
    log.touch()
    node.new()
    eventually(lambda: len(numbers(log)) > 20, timeout_s=30)
    node.backend.stop_container(container, timeout_s=0)
    node.backend.remove_container(container)
    found = numbers(log, first, second)
    assert found == list(range(len(found)))


_KEEPER = """
import sys, time
from oakum.docker.client import DockerClient
from oakum.docker.logs import LogKeeper
keeper = LogKeeper(DockerClient(sys.argv[1]), sys.argv[2])
keeper.start()
keeper.follow(sys.argv[3], sys.argv[4])
time.sleep(60)
"""


def test_killed_while_it_writes_no_line_of_a_log_is_lost_or_doubled(node: Node, tmp_path: Path) -> None:
    # a process of its own writes this container's log, and dies again and again
    pod = node.sandbox()
    container = node.container(pod, "i=0; while [ $i -lt 60000 ]; do echo $i; i=$((i+1)); done; sleep 300")
    log, positions = tmp_path / "again.log", tmp_path / "positions"
    argv = [sys.executable, "-c", _KEEPER, node.peer.host, str(positions), container, str(log)]

    def text() -> bytes:
        return log.read_bytes() if log.exists() else b""

    def until(enough: Callable[[], bool]) -> None:
        with subprocess.Popen(argv) as keeper:
            try:
                eventually(enough, timeout_s=60)
            finally:
                keeper.kill()

    for _ in range(6):
        before = len(text())
        until(lambda before=before: len(text()) > before or text().endswith(b" F 59999\n"))
    until(lambda: text().endswith(b" F 59999\n"))
    assert numbers(log) == list(range(60000))


def test_what_happened_while_dockerd_was_away_is_told_once(node: Node) -> None:
    told: queue.Queue[ContainerEvent | OakumError] = queue.Queue()
    pod = node.sandbox()
    lives, dies = node.container(pod, "sleep 300"), node.container(pod, "sleep 300")
    leave = node.backend.watch_events(told.put)
    try:
        pid = node.backend.container_status(dies).pid
        node.peer.kill()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="is dockerd running"):
            node.backend.container_status(dies)
        assert not any(c.status for c in node.backend.runtime_status(verbose=False).conditions[:1])
        node.peer.start()
        event = told.get(timeout=60)
        assert isinstance(event, ContainerEvent)
        assert (event.kind, event.id) == ("stopped", dies)
        assert node.running(lives)
        node.backend.remove_container(dies)
        event = told.get(timeout=60)
        assert isinstance(event, ContainerEvent)
        assert (event.kind, event.id, [c.id for c in event.containers]) == ("deleted", dies, [lives])
        # a container that somebody else removes
        node.peer.docker("rm", "--force", lives)
        kinds = []
        for _ in range(2):
            event = told.get(timeout=60)
            assert isinstance(event, ContainerEvent)
            kinds.append((event.kind, event.id))
        assert kinds == [("stopped", lives), ("deleted", lives)]
        with pytest.raises(NotFound):
            node.backend.container_status(lives)
        node.backend.stop_container(lives, timeout_s=1)
        node.backend.remove_container(lives)
        assert told.empty()
    finally:
        leave()


def test_a_removed_container_leaves_its_last_lines(node: Node) -> None:
    pod = node.sandbox()
    container = node.container(pod, "seq 1 2000; sleep 300")
    log = node.log(container)
    eventually(lambda: log.stat().st_size > 0)
    node.peer.docker("rm", "--force", container)
    assert eventually(lambda: numbers(log) == list(range(1, 2001)) or len(numbers(log)) == 2000)


def test_a_hanging_dockerd_holds_no_call_beyond_its_deadline_nor_what_needs_no_docker(node: Node) -> None:
    pod = node.sandbox()
    container = node.container(pod, COUNT)
    log = node.log(container)
    eventually(lambda: len(numbers(log)) > 5)
    os.kill(node.peer.pid, signal.SIGSTOP)
    try:
        failed: list[OakumError] = []

        def ask() -> None:
            try:
                node.backend.client.get("/containers/json", deadline_s=0.5)
            except OakumError as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [type(error) for error in failed] == [DeadlineExceeded] * 5
        assert not any(c.status for c in node.backend.runtime_status(verbose=False).conditions[:1])
    finally:
        os.kill(node.peer.pid, signal.SIGCONT)
    seen = len(numbers(log))
    eventually(lambda: len(numbers(log)) > seen)
    assert node.running(container)


def test_an_exec_that_takes_too_long_is_killed_with_all_that_it_started_even_if_dockerd_hangs(
    node: Node,
) -> None:
    pod = node.sandbox()
    container = node.container(pod, "sleep 300")
    path = node.backend.container_status(container).cgroup_path

    def names() -> list[str]:
        found = subprocess.run(
            node.peer.argv("top", container, "-o", "pid,args"), check=True, capture_output=True, text=True
        )
        return sorted(" ".join(line.split()[1:]) for line in found.stdout.splitlines()[1:])

    before = names()
    script = "sleep 301 & (setsid sh -c 'sleep 302 & sleep 303' &); env -i setsid sleep 304 & sleep 305"
    with pytest.raises(DeadlineExceeded, match="was killed"):
        node.backend.exec_sync(container, ["sh", "-c", script], timeout_s=1)
    assert names() == before
    assert path

    def hang() -> bool:
        if len(names()) > len(before):
            os.kill(node.peer.pid, signal.SIGSTOP)
            return True
        return False

    outcome: list[BaseException] = []

    def run() -> None:
        try:
            node.backend.exec_sync(container, ["sh", "-c", "sleep 306 & sleep 307"], timeout_s=3)
        except OakumError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(hang)
    try:
        thread.join(60)
    finally:
        os.kill(node.peer.pid, signal.SIGCONT)
    assert [type(error) for error in outcome] == [DeadlineExceeded]
    assert names() == before


def test_a_pull_cut_midway_by_dockerds_end_says_so_and_the_next_one_brings_the_image(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    # this dockerd reaches the machine's loopback
    directory = tmp_path_factory.mktemp("dp")
    image = build_image([busybox_layer()], {"Cmd": ["sh"]})
    with (
        FakeRegistry() as registry,
        DockerPeer(str(directory), own_network=False, live_restore=True) as peer,
    ):
        registry.add("a/b", "1", image)
        name = f"{registry.address}/a/b:1"
        backend = DockerBackend(
            peer.host, root=f"{tmp_path}/r", state=f"{tmp_path}/s", network=NetworkSettings("builtin")
        )
        try:
            layer = image.layers[0].digest
            hold = threading.Event()
            registry.fault(layer, Fault(hold=hold, hold_after=1000))
            failed: list[OakumError] = []

            def pull() -> None:
                try:
                    backend.pull_image(name)
                except OakumError as error:
                    failed.append(error)

            thread = threading.Thread(target=pull)
            thread.start()
            eventually(lambda: registry.requests(layer))
            peer.kill()
            thread.join(60)
            hold.set()
            assert [type(error) for error in failed] == [Unavailable]
            peer.start()
            assert backend.image_status(name) is None
            backend.pull_image(name)
            assert backend.image_status(name) is not None
        finally:
            backend.close()
