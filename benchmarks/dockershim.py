# SPDX-License-Identifier: Apache-2.0
"""`oakum serve --backend docker` over CRI, and the same questions put to the same dockerd itself.

What CRI adds on top of Docker's own call is the difference; statistics are asked of Docker as it is done (one after the other), and all at once.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kernel.oci_cli_box import IMAGE, image_archive
from tests.support.cri import CriClient, container_config, pod_config
from tests.support.docker_peer import DockerPeer
from tests.support.server import OakumServer

from benchmarks.figures import Figure, Target, in_turn, of_samples
from benchmarks.memory import pss_mb
from oakum.api.cri._proto import cri_pb2 as pb
from oakum.docker.client import DockerClient

PEER = "dockerd"
_CONTAINERS = 100
_AT_ONCE = 4
_SOME = 3


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """The figures. `rounds` is for the quick ones; what takes Docker seconds runs a few times."""
    os.makedirs(f"{directory}/r")
    with DockerPeer(f"{directory}/d", state=f"{directory}/run/d") as peer:
        archive = image_archive(Path(directory) / "image.tar")
        peer.docker("load", "--input", str(archive))
        peer.keep_host_namespace()
        argv = ["--backend", "docker", "--docker-host", peer.host]
        with OakumServer(f"{directory}/r/root", f"{directory}/run/s", f"{directory}/r", *argv) as server:
            time.sleep(2)
            idle = pss_mb([server.pid])
            with server.client() as client:
                found = _measure(client, DockerClient(peer.host), directory, peer, rounds)
        return PEER, [*found, Figure("idle oakum serve", "MB PSS", idle, target=Target(60, absolute=True))]


def _measure(
    client: CriClient, docker: DockerClient, directory: str, peer: DockerPeer, rounds: int
) -> list[Figure]:
    pod = client.run_pod(pod_config(f"b{uuid.uuid4().hex}", directory))

    def make(number: int) -> str:
        container = client.create(pod, container_config(f"c{number}", IMAGE, "sleep", "3600"))
        client.start(container)
        return container

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        containers = list(pool.map(make, range(_CONTAINERS)))
    one = containers[0]
    figures = [
        _added(
            "ContainerStatus",
            rounds,
            lambda: client.status(one),
            lambda: docker.get(f"/containers/{one}/json"),
        ),
        _added(
            "ExecSync true",
            rounds,
            lambda: client.exec(one, "true"),
            lambda: _docker_exec(docker, one),
        ),
    ]

    def all_at_once() -> None:
        with ThreadPoolExecutor(_CONTAINERS) as asking:
            list(
                asking.map(
                    lambda c: docker.get(f"/containers/{c}/stats", query={"stream": False}), containers
                )
            )

    def ours() -> None:
        answer = client.runtime.ListContainerStats(pb.ListContainerStatsRequest())
        assert len(answer.stats) == _CONTAINERS

    def one_by_one() -> dict[str, float]:
        # each takes Docker over a second: some stand for all
        some = containers[:_SOME]
        began = time.perf_counter()
        for container in some:
            docker.get(f"/containers/{container}/stats", query={"stream": False})
        return {"ms": (time.perf_counter() - began) * 1e3 * _CONTAINERS / _SOME}

    what = f"statistics of {_CONTAINERS} containers"
    samples = in_turn(3, {"oakum": _timed(ours), PEER: one_by_one})
    figures.append(of_samples(f"{what}, Docker asked one by one", "ms", samples["ms"], Target(1 / 20)))
    samples = in_turn(3, {"oakum": _timed(ours), PEER: _timed(all_at_once)})
    figures.append(of_samples(f"{what}, Docker asked for all at once", "ms", samples["ms"]))

    def our_pod() -> None:
        name = uuid.uuid4().hex
        made = client.run_pod(pod_config(name, directory))
        container = client.create(made, container_config("c", IMAGE, "sleep", "3600"))
        client.start(container)

    def docker_run() -> None:
        subprocess.run(peer.argv("run", "-d", IMAGE, "sleep", "3600"), check=True, capture_output=True)

    samples = in_turn(5, {"oakum": _timed(our_pod), PEER: _timed(docker_run)})
    figures.append(of_samples("RunPodSandbox + Create + Start, docker run", "ms", samples["ms"]))
    for pod_there in client.pods():
        client.stop_pod(pod_there.id)
        client.remove_pod(pod_there.id)
    docker.close()
    return figures


def _timed(call: Callable[[], object]) -> Callable[[], dict[str, float]]:
    def timed() -> dict[str, float]:
        began = time.perf_counter()
        call()
        return {"ms": (time.perf_counter() - began) * 1e3}

    return timed


def _added(what: str, rounds: int, ours: Callable[[], object], theirs: Callable[[], object]) -> Figure:
    samples = in_turn(rounds, {"oakum": _timed(ours), PEER: _timed(theirs)})["ms"]
    added = statistics.median(samples["oakum"]) - statistics.median(samples[PEER])
    return Figure(
        f"{what}: added to Docker's own call", "ms", added, target=Target(3, absolute=True), samples=rounds
    )


def _docker_exec(docker: DockerClient, container: str) -> None:
    wanted = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["true"]}
    exec_id = docker.post(f"/containers/{container}/exec", wanted)["Id"]
    with docker.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": False}) as connection:
        while connection.recv(4096):
            pass
    while docker.get(f"/exec/{exec_id}/json")["Running"]:
        pass
