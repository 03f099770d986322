# SPDX-License-Identifier: Apache-2.0
"""Lists in pieces: what is streamed is what is listed, however long, and failures have their codes there too."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.chunks import chunks
from tests.support.cri import CriClient, MemoryBackend, container_config, failure, pod_config


@pytest.fixture
def busy(cri: CriClient) -> list[str]:
    cri.pull("busybox")
    pods = [cri.run_pod(pod_config(f"p{n}", labels={"n": str(n % 2)})) for n in range(7)]
    for pod in pods:
        cri.start(cri.create(pod, container_config("c", "busybox", labels={"tier": "a"})))
    return pods


def test_streams_say_what_lists_say(cri: CriClient, busy: list[str]) -> None:
    even = pb.PodSandboxFilter(label_selector={"n": "0"})
    sandboxes = [
        item
        for part in cri.runtime.StreamPodSandboxes(pb.StreamPodSandboxesRequest(filter=even))
        for item in part.pod_sandboxes
    ]
    assert sandboxes == list(cri.runtime.ListPodSandbox(pb.ListPodSandboxRequest(filter=even)).items)
    assert len(sandboxes) == 4
    one = pb.ContainerFilter(pod_sandbox_id=busy[3], state=pb.ContainerStateValue(state=pb.CONTAINER_RUNNING))
    (part,) = cri.runtime.StreamContainers(pb.StreamContainersRequest(filter=one))
    assert list(part.containers) == cri.containers(
        pod_sandbox_id=busy[3], state=pb.ContainerStateValue(state=pb.CONTAINER_RUNNING)
    )
    (images,) = cri.images.StreamImages(pb.StreamImagesRequest())
    assert list(images.images) == list(cri.images.ListImages(pb.ListImagesRequest()).images)
    named = pb.ImageFilter(image=pb.ImageSpec(image="absent"))
    assert list(cri.images.StreamImages(pb.StreamImagesRequest(filter=named))) == []


def test_streams_of_statistics(cri: CriClient, busy: list[str]) -> None:
    wanted = pb.ContainerStatsFilter(pod_sandbox_id=busy[0], label_selector={"tier": "a"})
    (part,) = cri.runtime.StreamContainerStats(pb.StreamContainerStatsRequest(filter=wanted))
    (stats,) = part.container_stats
    assert stats.cpu.usage_core_nano_seconds.value == 7
    (pods,) = cri.runtime.StreamPodSandboxStats(pb.StreamPodSandboxStatsRequest())
    assert [s.attributes.id for s in pods.pod_sandbox_stats] == busy
    nobody = pb.PodSandboxStatsFilter(id="feed")
    assert list(cri.runtime.StreamPodSandboxStats(pb.StreamPodSandboxStatsRequest(filter=nobody))) == []


def test_what_no_message_could_hold_comes_in_pieces(cri: CriClient, backend: MemoryBackend) -> None:
    for n in range(3000):
        backend.pull_image(f"registry.example/{'x' * 9000}/{n}")
    assert failure(lambda: cri.images.ListImages(pb.ListImagesRequest()))[0] in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    parts = list(cri.images.StreamImages(pb.StreamImagesRequest()))
    assert max(part.ByteSize() for part in parts) < 2 << 20
    names = [image.repo_tags[0] for part in parts for image in part.images]
    assert names == [image.repo_tags[0] for image in backend.list_images()]


def test_a_stream_fails_with_the_code_and_the_field(cri: CriClient) -> None:
    unknown = pb.ContainerFilter(state=pb.ContainerStateValue(state=77))  # type: ignore[arg-type] - nobody defined it
    code, message = failure(
        lambda: list(cri.runtime.StreamContainers(pb.StreamContainersRequest(filter=unknown)))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "filter.state" in message
    nul = pb.StreamImagesRequest(filter=pb.ImageFilter(image=pb.ImageSpec(image="a\0b")))
    code, message = failure(lambda: list(cri.images.StreamImages(nul)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "filter.image.image" in message


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 400), st.integers(1, 9))
def test_pieces_are_small_and_lose_nothing(sizes: list[int], limit_bytes: int, limit_items: int) -> None:
    messages = [pb.Image(id="x" * size) for size in sizes]
    found = list(chunks(messages, limit_bytes=limit_bytes, limit_items=limit_items))
    assert [m for piece in found for m in piece] == messages
    for piece in found:
        assert 1 <= len(piece) <= limit_items
        assert len(piece) == 1 or sum(m.ByteSize() for m in piece) <= limit_bytes
