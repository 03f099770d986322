# SPDX-License-Identifier: Apache-2.0
"""A pod's life over CRI where both sides have runc make the containers: what is left is what is around it."""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.support.containerd_peer import ContainerdPeer
from tests.support.cri import CriClient
from tests.support.leaks import remove_cgroups
from tests.support.registry import Registry
from tests.support.server import OakumServer

from benchmarks.figures import Figure, Target, in_turn, of_samples
from benchmarks.images import push_pause, push_small
from benchmarks.pod import Node

PEER = "containerd + runc"
_CGROUP = f"/oakum-bench-{os.getpid()}"
_TARGETS = {"RunPodSandbox + Create + Start": Target(1), "ExecSync true": Target(1.5)}


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
        ours, theirs = stack.enter_context(server.client()), stack.enter_context(CriClient(peer.socket))
        nodes = {
            "oakum": Node(ours, image, f"{directory}/o/logs", lambda: [server.pid], handler="runc"),
            PEER: Node(theirs, image, f"{directory}/c/logs", lambda: [peer.pid]),
        }
        samples = in_turn(rounds, {name: node.whole_life for name, node in nodes.items()}, warm_up=2)
        return PEER, [of_samples(step, "ms", found, _TARGETS.get(step)) for step, found in samples.items()]
