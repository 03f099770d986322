# SPDX-License-Identifier: Apache-2.0
"""Events told once: what is to be told of a life that was told in part, and dockerd's deaths in between."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.backend.status import (
    ContainerEvent,
    ContainerFilter,
    ContainerState,
    ContainerStatus,
    SandboxFilter,
    SandboxStatus,
)
from oakum.docker.client import DockerClient
from oakum.docker.events import Stage, Watcher, steps
from oakum.errors import NotFound, OakumError
from tests.unit.docker.simulated_engine import Request, SimulatedEngine

C, S, T, D = Stage.CREATED, Stage.STARTED, Stage.STOPPED, Stage.DELETED
POD = SandboxStatus(
    id="pod", config=SandboxConfig(metadata=SandboxMetadata(name="p")), state="ready", created_at_ns=1
)


@pytest.mark.parametrize(
    ("told", "now", "expected"),
    [
        (None, C, [C]),
        (None, S, [C, S]),
        (None, T, [C, S, T]),
        (None, D, []),
        (C, C, []),
        (C, S, [S]),
        (C, T, [S, T]),
        (C, D, [D]),
        (S, D, [T, D]),
        (S, C, []),
        (T, S, []),
        (T, D, [D]),
    ],
)
def test_a_life_goes_forward_and_is_told_once(told: Stage | None, now: Stage, expected: list[Stage]) -> None:
    assert steps(told, now) == expected


def test_a_sandbox_that_never_came_to_be_is_not_told() -> None:
    assert steps(None, T, sandbox=True) == steps(None, D, sandbox=True) == []
    assert steps(None, S, sandbox=True) == [C, S]


class World:
    """What there is in Docker."""

    def __init__(self) -> None:
        self.there: dict[str, ContainerState] = {}

    def status(self, name: str) -> ContainerStatus:
        return ContainerStatus(
            id=name,
            sandbox_id="pod",
            config=ContainerConfig(metadata=ContainerMetadata(name=name), image="x"),
            state=self.there[name],
            created_at_ns=1,
        )

    def container(self, container_id: str) -> ContainerStatus:
        if container_id not in self.there:
            raise NotFound("find container", container_id, "no such container")
        return self.status(container_id)

    def sandbox(self, sandbox_id: str) -> SandboxStatus:
        return POD

    def containers(self, wanted: ContainerFilter | None = None) -> Sequence[ContainerStatus]:
        return [self.status(name) for name in list(self.there)]

    def sandboxes(self, wanted: SandboxFilter | None = None) -> Sequence[SandboxStatus]:
        return [POD]


class Stream:
    """The simulated /events: what `send` is given, to the connection of the moment."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.connected = threading.Event()
        self._sock: socket.socket | None = None
        engine.on["GET /events"] = self._answer

    def _answer(self, request: Request, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._sock = sock
        self.connected.set()
        sock.recv(1)
        return False

    def send(self, action: str, name: str) -> None:
        labels = {"dev.oakum.kind": "container", "dev.oakum.sandbox": "pod"}
        event = {"Action": action, "Actor": {"ID": name, "Attributes": labels}}
        data = json.dumps(event).encode() + b"\n"
        assert self._sock is not None
        self._sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimulatedEngine]:
    with SimulatedEngine(str(tmp_path / "s"), version="1.44") as running:
        yield running


def test_nothing_is_lost_or_doubled_when_the_daemon_dies(engine: SimulatedEngine) -> None:
    world, stream = World(), Stream(engine)
    told: queue.Queue[ContainerEvent | OakumError] = queue.Queue()

    def next_told() -> tuple[str, str]:
        event = told.get(timeout=60)
        assert isinstance(event, ContainerEvent)
        return event.kind, event.id

    world.there = {"old": "running", "idle": "created"}
    client = DockerClient(engine.host)
    leave = Watcher(client, world, "here").watch(told.put)
    try:
        assert stream.connected.wait(60)
        world.there["new"] = "created"
        stream.send("create", "new")
        assert next_told() == ("created", "new")
        stream.send("create", "new")
        # it dies; meanwhile one ends, one goes, one starts, one comes
        world.there = {"idle": "running", "new": "created", "late": "exited"}
        stream.connected.clear()
        engine.drop()
        got = [next_told() for _ in range(6)]
        assert got[:2] == [("stopped", "old"), ("deleted", "old")]
        assert set(got[2:]) == {
            ("started", "idle"),
            ("created", "late"),
            ("started", "late"),
            ("stopped", "late"),
        }
        assert stream.connected.wait(60)
        for name, action in (("idle", "start"), ("late", "die"), ("old", "destroy"), ("new", "start")):
            stream.send(action, name)
        assert next_told() == ("started", "new")
        assert told.empty()
    finally:
        leave()
        client.close()


def test_a_sandbox_that_is_told_of_while_we_look_has_not_gone(engine: SimulatedEngine) -> None:
    stream = Stream(engine)
    told: queue.Queue[ContainerEvent | OakumError] = queue.Queue()
    looks: list[Watcher] = []

    class Making(World):
        made: tuple[SandboxStatus, ...] = ()

        def sandboxes(self, wanted: SandboxFilter | None = None) -> Sequence[SandboxStatus]:
            return [POD, *self.made]

        def containers(self, wanted: ContainerFilter | None = None) -> Sequence[ContainerStatus]:
            if wanted == ContainerFilter() and looks:
                # Docker's list of sandboxes is here already, and this one was not ready then
                self.made = (msgspec.structs.replace(POD, id="fresh"),)
                looks.pop().sandbox_ready("fresh")
            return super().containers(wanted)

    world = Making()
    client = DockerClient(engine.host)
    watcher = Watcher(client, world, "here")
    leave = watcher.watch(told.put)
    try:
        assert stream.connected.wait(60)
        stream.connected.clear()
        looks.append(watcher)
        engine.drop()
        assert stream.connected.wait(60)
        events: list[tuple[str, str]] = []
        while len(events) < 3:
            event = told.get(timeout=60)
            assert isinstance(event, ContainerEvent)
            events.append((event.kind, event.id))
            if len(events) == 2:
                world.there["c"] = "created"
                stream.send("create", "c")
        assert events == [("created", "fresh"), ("started", "fresh"), ("created", "c")]
    finally:
        leave()
        client.close()
