# SPDX-License-Identifier: Apache-2.0
"""Events as somebody sees them who watches: whoever did it, in order, once, and with how it ended."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.backend.status import ContainerEvent
from oakum.engine.namespace import Namespace
from oakum.errors import OakumError, ResourceExhausted
from oakum.model.ids import new_id
from tests.conftest import Directories
from tests.support.engines import Lab
from tests.support.patience import eventually, patient
from tests.support.server import OAKUM


class Seen:
    """Collects what it is told; `next` waits for it."""

    def __init__(self) -> None:
        self._told: queue.Queue[ContainerEvent | OakumError] = queue.Queue()
        self.all: list[ContainerEvent] = []

    def __call__(self, told: ContainerEvent | OakumError) -> None:
        self._told.put(told)

    def next(self, timeout_s: float = 120) -> ContainerEvent:
        told = self._told.get(timeout=timeout_s)
        assert isinstance(told, ContainerEvent), told
        if self.all:
            assert told.timestamp_ns > self.all[-1].timestamp_ns
        self.all.append(told)
        return told

    def expect(self, *wanted: tuple[str, str]) -> list[ContainerEvent]:
        found = [self.next() for _ in wanted]
        assert [(e.kind, e.id) for e in found] == list(wanted)
        return found

    def nothing_more(self, for_s: float = 0.4) -> None:
        time.sleep(for_s)
        assert self._told.empty(), self._told.get()


@pytest.fixture
def space(lab: Lab) -> Namespace:
    return lab.cri


@pytest.fixture
def watch(space: Namespace) -> Iterator[Callable[[], Seen]]:
    leaves: list[Callable[[], None]] = []

    def begin() -> Seen:
        seen = Seen()
        leaves.append(space.watch_events(seen))
        return seen

    yield begin
    for leave in leaves:
        leave()
    eventually(
        lambda: all(t.name != "events" for t in threading.enumerate()), "the thread ends with its watchers"
    )


def pod(space: Namespace) -> str:
    metadata = SandboxMetadata(name="p", uid=new_id())
    return space.run_sandbox(SandboxConfig(metadata=metadata, network="none"))


def made(space: Namespace, sandbox_id: str, *command: str, name: str = "c") -> str:
    image = next(t for i in space.list_images() for t in i.repo_tags if "busybox" in t)
    config = ContainerConfig(metadata=ContainerMetadata(name=name), image=image, command=command)
    return space.create_container(sandbox_id, config)


def test_a_pod_s_life_in_order(space: Namespace, watch: Callable[[], Seen]) -> None:
    seen = watch()
    sandbox_id = pod(space)
    created, started = seen.expect(("created", sandbox_id), ("started", sandbox_id))
    assert started.sandbox.state == "ready"
    assert created.containers == ()
    container_id = made(space, sandbox_id, "sh", "-c", "sleep 0.2; exit 7")
    (event,) = seen.expect(("created", container_id))
    assert [c.state for c in event.containers] == ["created"]
    space.start_container(container_id)
    started, stopped = seen.expect(("started", container_id), ("stopped", container_id))
    assert started.timestamp_ns >= space.container_status(container_id).started_at_ns
    assert [(c.state, c.exit_code) for c in stopped.containers] == [("exited", 7)]
    assert stopped.timestamp_ns >= stopped.containers[0].finished_at_ns > 0
    assert stopped.sandbox.config.metadata.name == "p"
    space.remove_container(container_id)
    (deleted,) = seen.expect(("deleted", container_id))
    assert deleted.containers == ()
    assert deleted.sandbox.state == "ready"
    space.stop_sandbox(sandbox_id)
    space.remove_sandbox(sandbox_id)
    stopped, deleted = seen.expect(("stopped", sandbox_id), ("deleted", sandbox_id))
    assert stopped.sandbox.state == deleted.sandbox.state == "not_ready"
    seen.nothing_more()


def test_an_exit_is_told_before_the_next_round(
    space: Namespace, watch: Callable[[], Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oakum.engine.events._TICK_S", 60.0)
    sandbox_id = pod(space)
    seen = watch()
    delays: list[float] = []
    for n in range(5):
        container_id = made(space, sandbox_id, "true", name=f"c{n}")
        space.start_container(container_id)
        *_, stopped = seen.expect(*((kind, container_id) for kind in ("created", "started", "stopped")))
        delays.append((stopped.timestamp_ns - stopped.containers[0].finished_at_ns) / 1e6)
    assert sorted(delays)[2] < patient(1000), delays
    space.remove_sandbox(sandbox_id)


def test_what_other_processes_do_is_told_too(
    space: Namespace, watch: Callable[[], Seen], module_directories: Directories
) -> None:
    sandbox_id = pod(space)
    container_id = made(space, sandbox_id, "sleep", "600")
    space.start_container(container_id)
    seen = watch()
    command = [
        OAKUM,
        "--root",
        module_directories.root,
        "--state",
        module_directories.state,
        "--namespace",
        "k8s.io",
    ]
    subprocess.run([*command, "rm", "--force", container_id], check=True, capture_output=True, timeout=60)
    stopped, _ = seen.expect(("stopped", container_id), ("deleted", container_id))
    assert [(c.state, c.exit_code) for c in stopped.containers] == [("exited", 137)]
    subprocess.run(
        [*command, "pod", "rm", "--force", sandbox_id], check=True, capture_output=True, timeout=60
    )
    seen.expect(("stopped", sandbox_id), ("deleted", sandbox_id))
    seen.nothing_more()


def test_a_container_that_never_ran_was_never_started(space: Namespace, watch: Callable[[], Seen]) -> None:
    sandbox_id = pod(space)
    seen = watch()
    container_id = made(space, sandbox_id, "/no/such/command")
    with pytest.raises(OakumError):
        space.start_container(container_id)
    _, stopped = seen.expect(("created", container_id), ("stopped", container_id))
    assert stopped.containers[0].reason == "StartError"
    space.remove_sandbox(sandbox_id)
    seen.expect(("deleted", container_id), ("stopped", sandbox_id), ("deleted", sandbox_id))
    seen.nothing_more()


def test_what_a_killed_shim_took_with_it_is_told(space: Namespace, watch: Callable[[], Seen]) -> None:
    sandbox_id = pod(space)
    container_id = made(space, sandbox_id, "sleep", "600")
    space.start_container(container_id)
    seen = watch()
    os.kill(space.sandbox_status(sandbox_id).shim_pid, signal.SIGKILL)
    stopped, lost = seen.expect(("stopped", container_id), ("stopped", sandbox_id))
    assert stopped.containers[0].state == "exited"
    assert lost.sandbox.state == "not_ready"
    space.remove_sandbox(sandbox_id)
    seen.expect(("deleted", container_id), ("deleted", sandbox_id))


def test_each_watcher_hears_all_from_its_beginning(space: Namespace, watch: Callable[[], Seen]) -> None:
    first = watch()
    sandbox_id = pod(space)
    first.expect(("created", sandbox_id), ("started", sandbox_id))
    second = watch()
    space.remove_sandbox(sandbox_id)
    for seen in (first, second):
        seen.expect(("stopped", sandbox_id), ("deleted", sandbox_id))
        seen.nothing_more()


def test_other_namespaces_are_not_told_of(lab: Lab, space: Namespace, watch: Callable[[], Seen]) -> None:
    seen = watch()
    other = lab.engine.namespace("other")
    sandbox_id = pod(other)
    other.remove_sandbox(sandbox_id)
    mine = pod(space)
    seen.expect(("created", mine), ("started", mine))
    space.remove_sandbox(mine)


def test_more_than_is_kept_is_an_error_and_no_silence(space: Namespace) -> None:
    store = space._context.store
    before = store.last_event()
    with store.transaction():
        for n in range(4100):
            store._run(
                "INSERT INTO events (namespace, object, kind, id) VALUES ('k8s.io', 'container', 'created', ?)",
                (str(n),),
            )
    with pytest.raises(ResourceExhausted, match="events were dropped"):
        store.events_after("k8s.io", before)
    assert len(store.events_after("k8s.io", store.last_event() - 10)) == 10
