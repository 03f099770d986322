# SPDX-License-Identifier: Apache-2.0
"""Clients of CRI that mean no good, or are broken: the server answers each as it should, lives, and keeps nothing.

OAKUM_FUZZ_REQUESTS is how many requests the fuzzer sends (100000 for a night); OAKUM_FUZZ_SEED begins elsewhere.
"""

from __future__ import annotations

import os
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri._proto import cri_pb2_grpc as rpc
from tests.conftest import Directories
from tests.support.cri import CriClient, container_config, failure
from tests.support.cri_fuzz import METHODS, Attempt, Change, attempts, encoded, places
from tests.support.cri_target import Target, busybox_layout
from tests.support.patience import eventually

REQUESTS = int(os.environ.get("OAKUM_FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("OAKUM_FUZZ_SEED", "1"))
AT_ONCE = 10
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
IMAGE = "127.0.0.1:1/library/busybox:latest"


@contextmanager
def running_target(directories: Directories, directory: Path) -> Iterator[Target]:
    layout = directory / "layout"
    layout.mkdir()
    with Target(*directories, directory, busybox_layout(layout, IMAGE), IMAGE) as running:
        yield running
    assert running.left_over == []


@pytest.fixture
def own_target(directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """For tests that may cost it its pods."""
    with running_target(directories, tmp_path_factory.mktemp("y")) as running:
        yield running


@pytest.fixture(scope="module")
def target(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running_target(module_directories, tmp_path_factory.mktemp("z")) as running:
        yield running


@pytest.mark.timeout(180 + REQUESTS // 20)
def test_no_request_gets_a_wrong_answer_or_leaves_anything(own_target: Target) -> None:
    target = own_target
    grant_each(target)
    before = target.resources()

    @seed(SEED)
    @settings(
        max_examples=REQUESTS // AT_ONCE,
        deadline=None,
        database=None,
        suppress_health_check=HEALTH,
        # what fails depends on what came before: a smaller case would be another one
        phases=[Phase.generate],
    )
    @given(st.lists(attempts(target.world), min_size=AT_ONCE, max_size=AT_ONCE))
    def send(batch: list[Attempt]) -> None:
        for attempt in batch:
            fault = target.fault(attempt)
            assert not fault, f"{fault}\nafter {attempt!r}"

    send()
    # threads of its pools come when they are needed and stay; descriptors are theirs, of the database
    descriptors, threads = (now - then for now, then in zip(target.resources(), before, strict=True))
    assert descriptors <= 64, "descriptors leak"
    assert threads <= 144 + 16, "threads leak"


def grant_each(target: Target) -> None:
    """Every RPC there is, as an honest client asks: what the fuzzer sends begins with these."""
    found: Counter[str] = Counter()
    for name in METHODS:
        assert target.fault(Attempt(name, granted=True)) == ""
        found[name] = target.codes[name, "OK"]
    # no registry has images here, and the rest is for hosts with CRIU
    refused = {"PullImage", "CheckpointContainer", "CheckpointPod", "RestorePod"}
    assert {name for name in METHODS if not found[name]} <= refused


def test_a_field_of_every_kind_is_set_as_told(target: Target) -> None:
    """The fuzzer itself: what it says it sends is what arrives."""
    name = "CreateContainer"
    by_name = {place.name: place for place in places(name)}
    changes = (
        Change(by_name["pod_sandbox_id"], "@pod@"),
        Change(by_name["config.mounts.host_path"], "/x"),
        Change(by_name["config.args"], ["a", "b"]),
        Change(by_name["config.labels"], {"k": "v"}),
        Change(by_name["sandbox_config"], "absent"),
    )
    data = encoded(Attempt(name, granted=True, changes=changes), target.base(name), target.ids)
    request = pb.CreateContainerRequest.FromString(data)
    assert request.pod_sandbox_id == target.ids["pod"]
    assert request.config.mounts[0].host_path == "/x"
    assert list(request.config.args) == ["a", "b"]
    assert dict(request.config.labels) == {"k": "v"}
    assert not request.HasField("sandbox_config")


def test_a_request_that_is_too_large_is_refused_and_the_connection_goes_on(target: Target) -> None:
    request = pb.ExecSyncRequest(container_id=target.ids["running"], cmd=["x" * (17 << 20)])
    code, message = failure(lambda: target.client.runtime.ExecSync(request, timeout=30))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in message
    assert target.client.exec(target.ids["running"], "true").exit_code == 0


# ---- clients that go away, stall, or come in thousands


def processes_in(target: Target, container: str) -> int:
    listed = target.client.exec(container, "sh", "-c", "for d in /proc/[0-9]*; do cat $d/cmdline; echo; done")
    return sum(line.startswith(b"sleep\0007777") for line in listed.stdout.splitlines())


def test_commands_of_clients_that_have_gone_are_killed_and_hold_nobody_up(target: Target) -> None:
    running = target.ids["running"]
    request = pb.ExecSyncRequest(container_id=running, cmd=["sleep", "7777"])
    # more than there are threads for calls that wait
    calls = [target.client.runtime.ExecSync.future(request) for _ in range(140)]
    eventually(lambda: processes_in_container(target) >= 20, timeout_s=30)
    for call in calls:
        call.cancel()
    assert target.client.exec(running, "true", rpc_timeout=60).exit_code == 0
    eventually(lambda: processes_in(target, running) == 0, timeout_s=30)


def processes_in_container(target: Target) -> int:
    """As `processes_in`, from outside: while all threads wait, no command gets one."""
    found = 0
    for name in os.listdir("/proc"):
        try:
            found += Path("/proc", name, "cmdline").read_bytes() == b"sleep\x007777\0"
        except OSError:
            continue  # no process, or one that has just ended
    return found


def test_a_stream_that_nobody_reads_holds_nobody_up(target: Target) -> None:
    with CriClient(target.socket) as stalled:
        events = stalled.runtime.GetContainerEvents(pb.GetEventsRequest())
        events.initial_metadata()
        lists = [stalled.runtime.StreamContainers(pb.StreamContainersRequest()) for _ in range(200)]
        for n in range(20):
            created = target.client.create(
                target.ids["pod"], container_config(f"stalled{n}", target.world.image)
            )
            target.client.remove(created)
        assert len(target.client.containers()) == 3
        first = next(iter(events))
        assert first.container_event_type == pb.CONTAINER_CREATED_EVENT
        for each in (events, *lists):
            each.cancel()


def test_ten_thousand_idle_connections_keep_nobody_out(target: Target) -> None:
    before, _ = target.resources()
    idle: list[socket.socket] = []
    try:
        with descriptors(10_500):
            for _ in range(10_000):
                idle.append(connected(target.socket))
            # whoever is connected goes on, and what is too many has been told at once
            assert target.client.status(target.ids["running"]).status.id == target.ids["running"]
            eventually(lambda: sum(map(is_closed, idle)) >= 9_000, timeout_s=30)
            # a refused one may take a moment to be closed, but they never pile up
            assert target.resources()[0] - before <= 5_000
            eventually(lambda: target.resources()[0] - before <= 300, timeout_s=30)
            # and a new one gets in as soon as those that say nothing have been told, too
            eventually(lambda: says_version(target.socket), timeout_s=60)
    finally:
        for connection in idle:
            connection.close()
    eventually(lambda: target.resources()[0] - before <= 32, timeout_s=30)


@contextmanager
def descriptors(number: int) -> Iterator[None]:
    """Room for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), max(hard, number)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, number)))


def connected(path: str) -> socket.socket:
    """A connection that says nothing; the queue of those to be accepted may be full for a moment."""
    connection = socket.socket(socket.AF_UNIX)

    def tried() -> bool:
        try:
            connection.connect(path)
        except BlockingIOError:
            return False
        return True

    connection.setblocking(False)
    eventually(tried, timeout_s=30)
    return connection


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def says_version(path: str) -> bool:
    # a connection of its own: clients of one process share theirs otherwise
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix://{path}", options=options) as channel:
        try:
            return bool(rpc.RuntimeServiceStub(channel).Version(pb.VersionRequest(), timeout=5).runtime_name)
        except grpc.RpcError:
            return False
