# SPDX-License-Identifier: Apache-2.0
"""Looks at a backend that can answer at once: in the loop's own thread where it does, in another where it would wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.backend.status import ContainerFilter, ContainerStatus, SandboxFilter, SandboxStatus
from tests.support.cri import CriClient, MemoryBackend

T = TypeVar("T")


class PromptBackend(MemoryBackend):
    """Notes which threads ask; `busy` says whether everything would have to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self.threads: list[str] = []

    def at_once(self, look: Callable[[], T]) -> T | None:
        return None if self.busy else look()

    def list_containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStatus]:  # noqa: B008 - frozen
        self.threads.append(threading.current_thread().name)
        return super().list_containers(wanted)

    def list_sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStatus]:  # noqa: B008 - frozen
        self.threads.append(threading.current_thread().name)
        return super().list_sandboxes(wanted)


@pytest.fixture
def backend() -> PromptBackend:
    return PromptBackend()


def looks(cri: CriClient, pod: str, made: str) -> list[object]:
    return [
        list(cri.containers()),
        list(cri.pods()),
        cri.status(made).status,
        cri.pod_status(pod).status,
        list(cri.pod_status(pod).containers_statuses),
    ]


def test_answers_are_the_same_wherever_they_are_made(cri: CriClient, backend: PromptBackend) -> None:
    assert list(cri.containers()) == []  # an empty answer is one, too
    sandbox = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p", uid="u", namespace="n"))
    pod = cri.run_pod(sandbox)
    cri.pull("busybox")
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"))
    made = cri.create(pod, config, sandbox)
    here = looks(cri, pod, made)
    assert len(backend.threads) == 5
    assert not [name for name in backend.threads if name.startswith("quick")]
    backend.threads.clear()
    backend.busy = True
    assert looks(cri, pod, made) == here
    assert len(backend.threads) == 4
    assert all(name.startswith("quick") for name in backend.threads)


def test_failures_are_told_at_once_too(cri: CriClient) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        cri.status("f" * 64)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
