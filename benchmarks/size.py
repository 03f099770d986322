# SPDX-License-Identifier: Apache-2.0
"""A full node: 500 running containers in ten pods, listed, described and measured. `oakum serve` and containerd in turn."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.support.containerd_peer import ContainerdPeer
from tests.support.cri import CriClient
from tests.support.leaks import remove_cgroups
from tests.support.registry import Registry
from tests.support.server import OakumServer

from benchmarks.figures import Figure, Stopwatch, Target, in_turn, of_samples
from benchmarks.images import push_pause, push_small
from oakum.api.cri._proto import cri_pb2 as pb

PEER = "containerd + runc"
_PODS = 10
_EACH = 50
_AT_ONCE = 8
_TIMEOUT_S = 60
_CGROUP = f"/oakum-size-{os.getpid()}"
_NAMESPACES = pb.NamespaceOption(pid=pb.CONTAINER)

_STEPS = {
    "ListContainers": Target(1.5),
    "StreamContainers": None,
    "ListContainers, one pod": Target(1.5),
    # a call of its own each, whatever the size: what gRPC costs in Python is most of it
    "ContainerStatus": None,
    "ListPodSandbox": None,
    "PodSandboxStatus": None,
    "ListContainerStats": Target(1.5),
    "ListPodSandboxStats": Target(1.5),
}


class FullNode:
    """One server with all its containers."""

    def __init__(self, client: CriClient, image: str, logs: str) -> None:
        self._client = client
        self._image = image
        self._logs = logs
        client.pull(image)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            self._pods = list(pool.map(lambda _: self._fill_pod(), range(_PODS)))
        self._containers = [c.id for c in client.containers()]
        assert len(self._containers) == _PODS * _EACH

    def _fill_pod(self) -> str:
        uid = uuid.uuid4().hex
        os.makedirs(f"{self._logs}/{uid}")
        labels = {"app": "size", "io.kubernetes.pod.uid": uid, "io.kubernetes.pod.namespace": "bench"}
        sandbox = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"s{uid}", uid=uid, namespace="bench"),
            hostname="bench",
            log_directory=f"{self._logs}/{uid}",
            labels=labels,
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=_CGROUP,
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=_NAMESPACES),
            ),
        )
        pod = self._client.run_pod(sandbox)
        for number in range(_EACH):
            container = pb.ContainerConfig(
                metadata=pb.ContainerMetadata(name=f"c{number}"),
                image=pb.ImageSpec(image=self._image),
                command=["sleep", "600"],
                log_path=f"c{number}.log",
                # as many and as long as a kubelet's
                labels={**labels, "io.kubernetes.container.name": f"c{number}"},
                annotations={f"io.kubernetes.container.note{n}": "x" * 20 for n in range(6)},
                linux=pb.LinuxContainerConfig(
                    security_context=pb.LinuxContainerSecurityContext(namespace_options=_NAMESPACES)
                ),
            )
            self._client.start(self._client.create(pod, container, sandbox))
        return pod

    def look(self) -> dict[str, float]:
        """Every question once."""
        watch, runtime = Stopwatch(), self._client.runtime
        count = _PODS * _EACH
        steps: dict[str, Callable[[], int]] = {
            "ListContainers": lambda: len(self._client.containers()),
            "ListContainers, one pod": lambda: (
                len(self._client.containers(pod_sandbox_id=self._pods[0])) * _PODS
            ),
            "ContainerStatus": lambda: (
                len(self._client.status(self._containers[7]).status.metadata.name) and count
            ),
            "ListPodSandbox": lambda: len(self._client.pods()) * _EACH,
            "PodSandboxStatus": lambda: len(self._client.pod_status(self._pods[0]).status.id) and count,
            "ListContainerStats": lambda: len(
                runtime.ListContainerStats(pb.ListContainerStatsRequest(), timeout=_TIMEOUT_S).stats
            ),
            "ListPodSandboxStats": lambda: (
                _EACH
                * len(runtime.ListPodSandboxStats(pb.ListPodSandboxStatsRequest(), timeout=_TIMEOUT_S).stats)
            ),
        }
        for name, call in steps.items():
            assert watch.step(name, call) == count, name
        return watch.steps

    def stream(self) -> dict[str, float]:
        """The whole list in pieces, which the peer does not have."""
        watch = Stopwatch()
        answers = watch.step(
            "StreamContainers",
            lambda: list(
                self._client.runtime.StreamContainers(pb.StreamContainersRequest(), timeout=_TIMEOUT_S)
            ),
        )
        assert sum(len(answer.containers) for answer in answers) == _PODS * _EACH
        return watch.steps

    def end(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._client.remove_pod, self._pods))


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """Measure; the peer's name and the figures."""
    with ExitStack() as stack:
        registry = stack.enter_context(Registry(directory))
        image, pause = push_small(registry), push_pause(registry)
        peer = stack.enter_context(
            ContainerdPeer(f"{directory}/c", pause_image=pause, state=f"{directory}/run/c")
        )
        server = stack.enter_context(
            OakumServer(f"{directory}/root", f"{directory}/run/state", f"{directory}/o")
        )
        stack.callback(remove_cgroups, _CGROUP)
        nodes: dict[str, FullNode] = {}
        for name, client, logs in (
            ("oakum", server.client(), f"{directory}/o/logs"),
            (PEER, CriClient(peer.socket), f"{directory}/c/logs"),
        ):
            nodes[name] = FullNode(stack.enter_context(client), image, logs)
            stack.callback(nodes[name].end)
        samples = in_turn(rounds, {name: node.look for name, node in nodes.items()}, warm_up=2)
        samples |= in_turn(rounds, {"oakum": nodes["oakum"].stream})
    return PEER, [
        of_samples(f"{step} of {_PODS * _EACH}", "ms", samples[step], target)
        for step, target in _STEPS.items()
    ]
