# SPDX-License-Identifier: Apache-2.0
"""`oakum run --rm IMAGE true` and `docker run --rm IMAGE true`, whole commands, in turn."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tests.support.docker_peer import DockerPeer
from tests.support.images import busybox_layer
from tests.support.installations import end_installation
from tests.support.registry import Registry
from tests.support.server import OAKUM

from benchmarks.figures import Figure, Stopwatch, Target, in_turn, of_samples
from benchmarks.images import push_small

PEER = "docker"


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """Measure; the peer's name and the figures."""
    root, state = f"{directory}/root", f"{directory}/run/state"
    oakum = [OAKUM, "--root", root, "--state", state]
    with ExitStack() as stack:
        registry = stack.enter_context(Registry(directory))
        image = push_small(registry)
        docker = stack.enter_context(DockerPeer(f"{directory}/d", state=f"{directory}/run/d"))
        subprocess.run(
            docker.argv("import", "-", "busybox:1"), input=busybox_layer(), check=True, capture_output=True
        )
        stack.callback(end_installation, root, state)
        subprocess.run([*oakum, "image", "pull", image], check=True, capture_output=True)
        figures: list[Figure] = []
        for network in ("bridge", "host"):
            net = ["--network", network] if network == "host" else []
            sides = {
                "oakum": _runner([*oakum, "run", "--rm", *net, image, "true"]),
                PEER: _runner(docker.argv("run", "--rm", *net, "busybox:1", "true")),
            }
            samples = in_turn(rounds, sides, warm_up=2)
            what = "run --rm IMAGE true" + (", --network host" if net else "")
            # the target is for the usual network; without one there is less that can be saved
            figures.append(of_samples(what, "ms", samples["run"], None if net else Target(0.5)))
    return PEER, figures


def _runner(argv: Sequence[str]) -> Callable[[], dict[str, float]]:
    def once() -> dict[str, float]:
        watch = Stopwatch()
        done = watch.step(
            "run", lambda: subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.returncode} {done.stderr.decode(errors='replace')}")
        return watch.steps

    return once
