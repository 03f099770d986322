# SPDX-License-Identifier: Apache-2.0
"""GetContainerEvents over a socket: in order, complete, and a stream that cannot be complete says why it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.rpc.events import QUEUE_EVENTS, Backlog
from oakum.backend.config import SandboxConfig, SandboxMetadata
from oakum.backend.status import ContainerEvent, SandboxStatus
from oakum.errors import OakumError, Unavailable
from tests.support.cri import CriClient, MemoryBackend, container_config, failure, pod_config
from tests.support.patience import eventually


@pytest.fixture
def made(cri: CriClient) -> str:
    cri.pull("busybox")
    return cri.create(cri.run_pod(pod_config("p")), container_config("c", "busybox"))


def subscribed(cri: CriClient) -> Any:
    stream = cri.runtime.GetContainerEvents(pb.GetEventsRequest(), timeout=60)
    stream.initial_metadata()  # comes when the server watches
    return stream


def test_events_with_the_pod_and_its_containers(cri: CriClient, backend: MemoryBackend, made: str) -> None:
    stream = subscribed(cri)
    for kind in ("created", "started", "stopped", "deleted"):
        backend.happened(kind, made)
    events = [next(stream) for _ in range(4)]
    assert [e.container_event_type for e in events] == [
        pb.CONTAINER_CREATED_EVENT,
        pb.CONTAINER_STARTED_EVENT,
        pb.CONTAINER_STOPPED_EVENT,
        pb.CONTAINER_DELETED_EVENT,
    ]
    assert {e.container_id for e in events} == {made}
    assert [e.created_at for e in events] == sorted({e.created_at for e in events})
    assert events[0].pod_sandbox_status.metadata.uid == "uid-p"
    assert [c.id for c in events[0].containers_statuses] == [made]
    assert events[0].containers_statuses[0].state == pb.CONTAINER_CREATED
    stream.cancel()
    eventually(lambda: not backend.tells, "nothing watches for a client that has left")


def test_nothing_watches_for_a_client_that_left_before_it_was_watched_for(
    cri: CriClient, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, watched = threading.Event(), threading.Event(), threading.Event()
    watch = backend.watch_events

    def slow(tell: Any) -> Any:
        begun.set()
        go_on.wait(60)
        leave = watch(tell)
        watched.set()
        return leave

    monkeypatch.setattr(backend, "watch_events", slow)
    stream = cri.runtime.GetContainerEvents(pb.GetEventsRequest(), timeout=60)
    try:
        assert begun.wait(60)
        stream.cancel()
        for _ in range(3):  # answered after the server has heard of the end
            cri.runtime.Version(pb.VersionRequest())
    finally:
        go_on.set()
    eventually(lambda: watched.is_set() and not backend.tells, "nothing watches for a client that has left")


def test_what_ends_the_watch_ends_the_stream_with_its_reason(
    cri: CriClient, backend: MemoryBackend, made: str
) -> None:
    stream = subscribed(cri)
    backend.happened("created", made)
    backend.tells[0](Unavailable("watch for events", "meta.db", "it is gone"))
    assert next(stream).container_id == made
    code, message = failure(lambda: next(stream))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "meta.db" in message


def test_a_slow_reader_gets_what_there_was_and_then_the_reason(
    cri: CriClient, backend: MemoryBackend, made: str
) -> None:
    slow = subscribed(cri)
    count = 4 * QUEUE_EVENTS
    for _ in range(count):
        backend.happened("started", made)
    time.sleep(0.5)
    seen: list[int] = []

    def read_all() -> None:
        seen.extend(event.created_at for event in slow)

    code, message = failure(read_all)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "list pods and containers, and subscribe again" in message
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert QUEUE_EVENTS <= len(seen) < count


def test_a_backlog_loses_nothing_before_its_bound_and_says_so_at_it() -> None:
    sandbox = SandboxStatus(
        id="s", config=SandboxConfig(metadata=SandboxMetadata(name="p")), state="ready", created_at_ns=1
    )

    async def story() -> tuple[list[int], OakumError]:
        backlog = Backlog(limit=3)
        for n in range(5):
            backlog.offer(ContainerEvent(kind="started", id="c", timestamp_ns=n, sandbox=sandbox))
        await asyncio.sleep(0)
        backlog.end()  # later than the loss: the loss is the reason
        seen: list[int] = []
        while True:
            try:
                seen.append((await backlog.next()).timestamp_ns)
            except OakumError as error:
                return seen, error

    seen, error = asyncio.run(story())
    assert seen == [0, 1, 2]
    assert error.code == "RESOURCE_EXHAUSTED"
