# SPDX-License-Identifier: Apache-2.0
"""Pull and unpack of a big image over CRI from one registry: `oakum serve` and containerd in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.support.containerd_peer import ContainerdPeer
from tests.support.cri import CriClient
from tests.support.registry import Registry
from tests.support.server import OakumServer

from benchmarks.figures import Figure, Target, in_turn, of_samples
from benchmarks.images import push_big, push_pause
from oakum.api.cri._proto import cri_pb2 as pb

PEER = "containerd"
_TIMEOUT_S = 600


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """Measure; the peer's name and the figures."""
    with ExitStack() as stack:
        registry = stack.enter_context(Registry(directory))
        image, packed, raw = push_big(registry, directory)
        pause = push_pause(registry)
        peer = stack.enter_context(
            ContainerdPeer(f"{directory}/c", pause_image=pause, state=f"{directory}/run/c")
        )
        server = stack.enter_context(
            OakumServer(f"{directory}/root", f"{directory}/run/state", f"{directory}/o")
        )
        sides = {
            "oakum": _puller(stack.enter_context(server.client()), image, registry),
            PEER: _puller(stack.enter_context(CriClient(peer.socket)), image, registry),
        }
        samples = in_turn(max(2, rounds // 6), sides, warm_up=0)
    what = f"pull and unpack of {packed >> 20} MiB ({raw >> 20} MiB unpacked)"
    return PEER, [
        of_samples(what, "s", samples["pull"], Target(0.6)),
        # oakum answers when the layers are on the disk, containerd before
        of_samples("... until all of it is on the disk", "s", samples["durable"]),
    ]


def _puller(client: CriClient, image: str, registry: Registry) -> Callable[[], dict[str, float]]:
    spec = pb.ImageSpec(image=image)

    def pull() -> dict[str, float]:
        _settle(registry)
        began = time.perf_counter()
        client.images.PullImage(pb.PullImageRequest(image=spec), timeout=_TIMEOUT_S)
        took = time.perf_counter() - began
        os.sync()
        durable = time.perf_counter() - began
        client.images.RemoveImage(pb.RemoveImageRequest(image=spec), timeout=_TIMEOUT_S)
        return {"pull": took, "durable": durable}

    return pull


def _settle(registry: Registry) -> None:
    """Before each pull: what the last one wrote is on disk, and what the registry serves is in memory."""
    os.sync()
    for blob in Path(registry.data).rglob("data"):
        with open(blob, "rb") as f:
            while f.read(1 << 20):
                pass
