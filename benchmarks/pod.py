# SPDX-License-Identifier: Apache-2.0
"""A pod's life over CRI: start, exec, end; ten at once; memory. `oakum serve` and containerd with runc in turn."""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.support.containerd_peer import ContainerdPeer
from tests.support.cri import CriClient
from tests.support.leaks import remove_cgroups
from tests.support.registry import Registry
from tests.support.server import OakumServer

from benchmarks.figures import Figure, Stopwatch, Target, in_turn, of_samples
from benchmarks.images import push_pause, push_small
from benchmarks.memory import pss_mb, with_helpers
from oakum.api.cri._proto import cri_pb2 as pb

PEER = "containerd + runc"
_AT_ONCE = 10
_PODS = 20
# as the kubelet asks for by default: a PID namespace for each container
_NAMESPACES = pb.NamespaceOption(pid=pb.CONTAINER)
_CGROUP = f"/oakum-bench-{os.getpid()}"

_STEPS = {
    "RunPodSandbox": None,
    "CreateContainer": None,
    "StartContainer": None,
    "RunPodSandbox + Create + Start": Target(0.25),
    "ExecSync true": Target(0.5),
    "ContainerStatus": None,
    "ListContainers": None,
    "StopContainer + RemoveContainer": None,
    "StopPodSandbox + RemovePodSandbox": None,
    "whole life of a pod": None,
}


class Node:
    """One CRI server under test, and whose memory counts as its."""

    def __init__(
        self,
        client: CriClient,
        image: str,
        logs: str,
        processes: Callable[[], Iterable[int]],
        *,
        handler: str = "",
    ) -> None:
        self.client = client
        self._image = image
        self._logs = logs
        self.processes = processes
        self._handler = handler
        client.pull(image)

    def start_pod(self, watch: Stopwatch) -> tuple[str, str]:
        """A pod with one sleeping container; their ids."""
        uid = uuid.uuid4().hex
        logs = f"{self._logs}/{uid}"
        os.makedirs(logs)
        sandbox = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"b{uid}", uid=uid, namespace="bench"),
            hostname="bench",
            log_directory=logs,
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=_CGROUP,
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=_NAMESPACES),
            ),
        )
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image=self._image),
            command=["sleep", "600"],
            log_path="c.log",
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(namespace_options=_NAMESPACES)
            ),
        )
        pod = watch.step("RunPodSandbox", lambda: self.client.run_pod(sandbox, self._handler))
        created = watch.step("CreateContainer", lambda: self.client.create(pod, container, sandbox))
        watch.step("StartContainer", lambda: self.client.start(created))
        watch.since_start("RunPodSandbox + Create + Start")
        return pod, created

    def whole_life(self) -> dict[str, float]:
        watch = Stopwatch()
        pod, container = self.start_pod(watch)
        result = watch.step("ExecSync true", lambda: self.client.exec(container, "true", timeout=10))
        assert result.exit_code == 0, result.stderr
        watch.step("ContainerStatus", lambda: self.client.status(container))
        watch.step("ListContainers", self.client.containers)
        watch.step("StopContainer + RemoveContainer", lambda: self._end_container(container))
        watch.step("StopPodSandbox + RemovePodSandbox", lambda: self.end_pod(pod))
        watch.since_start("whole life of a pod")
        return watch.steps

    def _end_container(self, container: str) -> None:
        self.client.stop(container, 0)
        self.client.remove(container)

    def end_pod(self, pod: str) -> None:
        self.client.stop_pod(pod)
        self.client.remove_pod(pod)

    def many(self) -> dict[str, float]:
        """Twenty pods, ten at once: starts a second, ends a second, memory of each further one, statistics."""
        before = pss_mb(self.processes())
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            began = time.perf_counter()
            pods = [pod for pod, _ in pool.map(lambda _: self.start_pod(Stopwatch()), range(_PODS))]
            starts = _PODS / (time.perf_counter() - began)
            time.sleep(1)  # let what starting needed be given back
            each = (pss_mb(self.processes()) - before) / _PODS
            began = time.perf_counter()
            self.client.runtime.ListContainerStats(pb.ListContainerStatsRequest(), timeout=30)
            stats = (time.perf_counter() - began) * 1e3
            began = time.perf_counter()
            list(pool.map(self.end_pod, pods))
            ends = _PODS / (time.perf_counter() - began)
        return {
            f"pod starts a second, {_AT_ONCE} at once": starts,
            f"pod ends a second, {_AT_ONCE} at once": ends,
            "each further pod": each,
            f"ListContainerStats of {_PODS}": stats,
        }


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
        nodes = {
            "oakum": Node(
                stack.enter_context(server.client()),
                image,
                f"{directory}/o/logs",
                lambda: with_helpers([server.pid, *server.zygote_pids(), *server.shim_pids()], "sleep"),
            ),
            PEER: Node(
                stack.enter_context(CriClient(peer.socket)),
                image,
                f"{directory}/c/logs",
                lambda: with_helpers([peer.pid, *peer.shim_pids()], "sleep"),
            ),
        }
        return PEER, _measure(nodes, rounds)


def _measure(nodes: dict[str, Node], rounds: int) -> list[Figure]:
    samples = in_turn(rounds, {name: node.whole_life for name, node in nodes.items()}, warm_up=2)
    figures = [of_samples(step, "ms", samples[step], target) for step, target in _STEPS.items()]
    idle = {name: [pss_mb(node.processes())] for name, node in nodes.items()}
    many = in_turn(3, {name: node.many for name, node in nodes.items()})
    targets = {"pod starts": Target(4, at_least=True), "each further pod": Target(1.5, absolute=True)}
    for what, found in many.items():
        unit = "MB PSS" if "further" in what else "ms" if "Stats" in what else "1/s"
        target = next((t for begin, t in targets.items() if what.startswith(begin)), None)
        figures.append(of_samples(what, unit, found, target))
    figures.append(of_samples("idle daemons", "MB PSS", idle))
    assert all(statistics.median(s) > 0 for s in idle.values())
    return figures
