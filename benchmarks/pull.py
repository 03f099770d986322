# SPDX-License-Identifier: Apache-2.0
"""Pull and unpack of a big image over CRI from one registry: `oakum serve` and containerd in turn."""

from __future__ import annotations

import itertools
import os
import time
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
    with Registry(directory) as registry:
        image, packed, raw = push_big(registry, directory)
        small = push_pause(registry)
        numbers = itertools.count()

        def by_oakum() -> dict[str, float]:
            own = f"{directory}/o{next(numbers)}"
            with (
                OakumServer(f"{own}/root", f"{directory}/run/{os.path.basename(own)}", own) as server,
                server.client() as client,
            ):
                return _pull(client, small, image, registry)

        def by_containerd() -> dict[str, float]:
            own = f"{directory}/c{next(numbers)}"
            with ContainerdPeer(own, pause_image=small) as peer, CriClient(peer.socket) as client:
                return _pull(client, small, image, registry)

        samples = in_turn(max(2, rounds // 6), {"oakum": by_oakum, PEER: by_containerd}, warm_up=0)
    what = f"pull and unpack of {packed >> 20} MiB ({raw >> 20} MiB unpacked)"
    return PEER, [
        of_samples(what, "s", samples["pull"], Target(0.6)),
        # oakum answers when the layers are on the disk, containerd before
        of_samples("... until all of it is on the disk", "s", samples["durable"]),
    ]


def _pull(client: CriClient, small: str, image: str, registry: Registry) -> dict[str, float]:
    """One pull into an empty store, which stays: ext4 looks long for inodes where many were deleted just before."""
    client.pull(small)
    _settle(registry)
    began = time.perf_counter()
    client.images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image=image)), timeout=_TIMEOUT_S)
    took = time.perf_counter() - began
    os.sync()
    return {"pull": took, "durable": time.perf_counter() - began}


def _settle(registry: Registry) -> None:
    """Before each pull: what the last one wrote is on disk, and what the registry serves is in memory."""
    os.sync()
    for blob in Path(registry.data).rglob("data"):
        with open(blob, "rb") as f:
            while f.read(1 << 20):
                pass
