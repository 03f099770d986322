# SPDX-License-Identifier: Apache-2.0
"""What a network costs: pods with the built-in one and with CNI plugins, and bytes through a host port.

The pods' peer is containerd with Debian's bridge plugin, and the very same list is run by oakum, too.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import ExitStack

from tests.support.containerd_peer import CNI_PLUGINS, ContainerdPeer
from tests.support.cri import CriClient
from tests.support.leaks import remove_cgroups
from tests.support.registry import Registry
from tests.support.server import OakumServer

from benchmarks import throughput
from benchmarks.figures import Figure, Stopwatch, Target, in_turn, of_samples
from benchmarks.images import push_pause
from oakum.api.cri._proto import cri_pb2 as pb

PEER = "containerd"
_CGROUP = f"/oakum-bench-net-{os.getpid()}"
# as the kubelet asks for by default
_NAMESPACES = pb.NamespaceOption(pid=pb.CONTAINER)
# What a pod leaves is cleared by the kernel after the call: not to be paid by who comes next.
_SETTLE_S = 0.1
_BUILT_IN, _CNI = "built-in", "the same CNI list"
_TARGETS: dict[str, dict[str, tuple[Target, ...]]] = {
    _BUILT_IN: {"RunPodSandbox": (Target(12, absolute=True), Target(1 / 8))},
    _CNI: {step: (Target(1),) for step in ("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox")},
}


class Node:
    """One CRI server whose pods have a network and no containers."""

    def __init__(self, client: CriClient) -> None:
        self._client = client

    def life(self) -> dict[str, float]:
        """How long each step of a pod's life takes."""
        uid = uuid.uuid4().hex
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"b{uid}", uid=uid, namespace="bench"),
            hostname="bench",
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=_CGROUP,
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=_NAMESPACES),
            ),
        )
        watch = Stopwatch()
        pod = watch.step("RunPodSandbox", lambda: self._client.run_pod(config))
        watch.step("StopPodSandbox", lambda: self._client.stop_pod(pod))
        watch.step("RemovePodSandbox", lambda: self._client.remove_pod(pod))
        time.sleep(_SETTLE_S)
        return watch.steps


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """Measure; the peer's name and the figures."""
    return PEER, [*_pods(directory, rounds), *throughput.run(directory, rounds)]


def _pods(directory: str, rounds: int) -> list[Figure]:
    with ExitStack() as stack:
        registry = stack.enter_context(Registry(directory))
        peer = stack.enter_context(
            ContainerdPeer(f"{directory}/c", pause_image=push_pause(registry), state=f"{directory}/run/c")
        )
        lists = {"OAKUM_CNI_CONFIG": f"{directory}/c/cni", "OAKUM_CNI_PATH": CNI_PLUGINS}
        nodes = {PEER: Node(stack.enter_context(CriClient(peer.socket)))}
        for name, mode, short in ((_BUILT_IN, "builtin", "o"), (_CNI, "cni", "p")):
            server = OakumServer(
                f"{directory}/{short}/root",
                f"{directory}/run/{short}",
                f"{directory}/{short}",
                env={"OAKUM_NETWORK": mode, **lists},
            )
            stack.enter_context(server)
            nodes[name] = Node(stack.enter_context(server.client()))
        stack.callback(remove_cgroups, _CGROUP)
        found = in_turn(rounds, {name: node.life for name, node in nodes.items()}, warm_up=3)
    figures: list[Figure] = []
    for kind, targets in _TARGETS.items():
        for step, samples in found.items():
            both = {"oakum": samples[kind], PEER: samples[PEER]}
            figures += [
                of_samples(f"{step}, {kind}", "ms", both, target) for target in targets.get(step, (None,))
            ]
    return figures
