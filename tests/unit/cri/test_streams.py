# SPDX-License-Identifier: Apache-2.0
"""Exec, Attach and PortForward over a real socket: a URL for what can be meant, and a refusal for the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.calls import Calls
from oakum.api.cri.server import cri_server
from oakum.errors import ResourceExhausted
from oakum.streaming.requests import AttachRequest, ExecRequest, ForwardRequest, Request, Wanted
from tests.support.cri import CriClient, MemoryBackend, container_config, failure, pod_config


class Recorded:
    """A streaming server that only gives URLs."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.full = False

    def url(self, request: Request) -> str:
        if self.full:
            raise ResourceExhausted("make stream", "", "too many")
        self.requests.append(request)
        return f"http://127.0.0.1:1/{len(self.requests)}"


@pytest.fixture
def streams() -> Recorded:
    return Recorded()


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory, streams: Recorded) -> Iterator[CriClient]:
    path: Path = tmp_path_factory.mktemp("cri") / "s"
    ready, loop, done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    backend = MemoryBackend()

    async def serve() -> None:
        calls = Calls(patient_threads=4)
        server = cri_server(backend, backend, calls, streams)
        server.add_insecure_port(f"unix://{path}")
        await server.start()
        ready.set()
        await done.wait()
        await server.stop(0.1)
        calls.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    with CriClient(str(path)) as made:
        yield made
    loop.call_soon_threadsafe(done.set)
    thread.join(60)
    loop.close()


@pytest.fixture
def running(client: CriClient) -> tuple[str, str]:
    client.pull("busybox")
    pod = client.run_pod(pod_config("p"))
    made = client.create(pod, container_config("c", "busybox", "sleep"))
    client.start(made)
    return pod, made


def test_each_is_answered_with_a_url(client: CriClient, streams: Recorded, running: tuple[str, str]) -> None:
    pod, made = running
    runtime = client.runtime
    exec_request = pb.ExecRequest(container_id=made, cmd=["sh", "-c", "x"], stdin=True, stdout=True, tty=True)
    assert runtime.Exec(exec_request).url == "http://127.0.0.1:1/1"
    assert runtime.Attach(pb.AttachRequest(container_id=made, stdout=True, stderr=True)).url.endswith("/2")
    assert runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod, port=[80, 443])).url.endswith("/3")
    assert streams.requests == [
        ExecRequest(made, ("sh", "-c", "x"), Wanted(stdin=True, stdout=True, tty=True)),
        AttachRequest(made, Wanted(stdout=True, stderr=True)),
        ForwardRequest(pod, (80, 443)),
    ]


def test_what_cannot_be_meant_is_refused_and_the_field_named(
    client: CriClient, streams: Recorded, running: tuple[str, str]
) -> None:
    pod, made = running
    runtime = client.runtime
    invalid = [
        (lambda: runtime.Exec(pb.ExecRequest(cmd=["x"], stdout=True)), "container_id"),
        (lambda: runtime.Exec(pb.ExecRequest(container_id=made, stdout=True)), "cmd"),
        (lambda: runtime.Exec(pb.ExecRequest(container_id=made, cmd=["x"])), "stdin, stdout, stderr"),
        (
            lambda: runtime.Exec(pb.ExecRequest(container_id=made, cmd=["x"], tty=True, stderr=True)),
            "stderr",
        ),
        (lambda: runtime.Exec(pb.ExecRequest(container_id=made, cmd=["a\0b"], stdout=True)), "cmd"),
        (lambda: runtime.Attach(pb.AttachRequest(stdout=True)), "container_id"),
        (lambda: runtime.Attach(pb.AttachRequest(container_id=made)), "stdin, stdout, stderr"),
        (lambda: runtime.Attach(pb.AttachRequest(container_id=made, tty=True, stderr=True)), "stderr"),
        (lambda: runtime.PortForward(pb.PortForwardRequest()), "pod_sandbox_id"),
        (lambda: runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod, port=[80, 0])), "port[1]"),
        (lambda: runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod, port=[65536])), "port[0]"),
    ]
    for call, field in invalid:
        code, message = failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, message
        assert f"check request field {field}: " in message
    assert streams.requests == []


def test_what_is_not_there_or_does_not_run_is_told_at_once(
    client: CriClient, streams: Recorded, running: tuple[str, str]
) -> None:
    pod, made = running
    runtime = client.runtime
    absent = pb.ExecRequest(container_id="absent", cmd=["x"], stdout=True)
    assert failure(lambda: runtime.Exec(absent))[0] is grpc.StatusCode.NOT_FOUND
    assert failure(lambda: runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id="absent")))[0] is (
        grpc.StatusCode.NOT_FOUND
    )
    client.stop(made)
    client.stop_pod(pod)
    stopped = pb.ExecRequest(container_id=made, cmd=["x"], stdout=True)
    code, message = failure(lambda: runtime.Exec(stopped))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "exited, not running" in message
    attach = pb.AttachRequest(container_id=made, stdout=True)
    assert failure(lambda: runtime.Attach(attach))[0] is grpc.StatusCode.FAILED_PRECONDITION
    forward = pb.PortForwardRequest(pod_sandbox_id=pod)
    assert failure(lambda: runtime.PortForward(forward))[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert streams.requests == []


def test_too_many_unused_urls(client: CriClient, streams: Recorded, running: tuple[str, str]) -> None:
    streams.full = True
    attach = pb.AttachRequest(container_id=running[1], stdout=True)
    assert failure(lambda: client.runtime.Attach(attach))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_server_without_streams_says_so(cri: CriClient) -> None:
    cri.pull("busybox")
    pod = cri.run_pod(pod_config("p"))
    code, message = failure(lambda: cri.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=pod)))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "no streaming server" in message
