# SPDX-License-Identifier: Apache-2.0
"""Bytes through a host port: from a machine outside, over the host's port map, into a container. Docker is the peer.

Each side is a host of its own (a network namespace) with a machine beside it, and the same two programs: one in the
container that reads, one outside that writes. `OAKUM_BENCH_GIGABYTES` says how much goes in one round (default 10).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kernel.oci_cli_box import IMAGE, image_archive
from tests.support.cri import pod_config
from tests.support.docker_peer import DockerPeer
from tests.support.registry import Registry
from tests.support.server import OakumServer

from benchmarks.figures import Figure, Target, in_turn, of_samples
from benchmarks.images import push_small
from oakum.api.cri._proto import cri_pb2 as pb

PEER = "dockerd"
_PORT, _INNER_PORT = 5201, 5001
_HOST, _OUTSIDE = "192.0.2.2", "192.0.2.1"
_GIGABYTE = 10**9
_READER_S = 20.0
# "PORT": reads whatever comes until its end, then says so with a byte. "ADDRESS PORT BYTES": the other end; seconds it took.
_PROGRAM = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static char buffer[1 << 18];
static int fail(const char *what) { perror(what); return 1; }
int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (argc == 2) {
        address.sin_port = htons(atoi(argv[1]));
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 8)) return fail("listen");
        for (;;) {
            int peer = accept(fd, 0, 0);
            if (peer < 0) return fail("accept");
            while (read(peer, buffer, sizeof buffer) > 0) {}
            if (write(peer, "", 1) != 1) perror("answer");
            close(peer);
        }
    }
    struct timespec begun, ended;
    long long left = atoll(argv[3]);
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    address.sin_port = htons(atoi(argv[2]));
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) return fail("connect");
    clock_gettime(CLOCK_MONOTONIC, &begun);
    while (left > 0) {
        ssize_t count = write(fd, buffer, left < (long long)sizeof buffer ? left : sizeof buffer);
        if (count <= 0) return fail("write");
        left -= count;
    }
    shutdown(fd, SHUT_WR);
    if (read(fd, buffer, 1) != 1) return fail("answer");
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%.9f\n", ended.tv_sec - begun.tv_sec + (ended.tv_nsec - begun.tv_nsec) / 1e9);
}
"""


def run(directory: str, rounds: int) -> list[Figure]:
    """Measure and tell the figures."""
    size = float(os.environ.get("OAKUM_BENCH_GIGABYTES", "10"))
    program = f"{directory}/flood"
    argv = ["gcc", "-static", "-O2", "-x", "c", "-o", program, "-"]
    subprocess.run(argv, input=_PROGRAM.encode(), check=True)
    with ExitStack() as stack:
        sides = {
            "oakum": stack.enter_context(_oakum(f"{directory}/to", f"{directory}/run/to", program)),
            PEER: stack.enter_context(_docker(f"{directory}/td", f"{directory}/run/td", program)),
        }

        def send(outside: str) -> dict[str, float]:
            target = [_HOST, str(_PORT), str(int(size * _GIGABYTE))]
            done = _run("nsenter", f"--net=/run/netns/{outside}", program, *target)
            return {"rate": size * 8 / float(done)}

        for outside in sides.values():
            _await_reader(outside, program)
        found = in_turn(
            max(3, rounds // 4),
            {name: lambda outside=outside: send(outside) for name, outside in sides.items()},
        )
    what = f"{size:g} GB through a host port, peer {PEER}"
    return [of_samples(what, "Gbit/s", found["rate"], Target(0.9, at_least=True))]


def _await_reader(outside: str, program: str) -> None:
    argv = ["nsenter", f"--net=/run/netns/{outside}", program, _HOST, str(_PORT), "1"]
    deadline = time.monotonic() + _READER_S
    while subprocess.run(argv, check=False, capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody answers on {_HOST}:{_PORT} from {outside}")
        time.sleep(0.05)


@contextmanager
def _oakum(directory: str, state: str, program: str) -> Generator[str]:
    """A pod with the reader, and the name of the namespace outside."""
    os.makedirs(directory)
    host = f"oakum-bench-{os.getpid()}"
    with ExitStack() as stack:
        _run("ip", "netns", "add", host)
        stack.callback(_run, "ip", "netns", "delete", host)
        _run("ip", "-n", host, "link", "set", "lo", "up")
        outside = stack.enter_context(_machine_beside(host))
        server = OakumServer(
            f"{directory}/root",
            state,
            directory,
            env={"OAKUM_NETWORK": "builtin"},
            prefix=["nsenter", f"--net=/run/netns/{host}"],
        )
        with Registry(directory) as registry:
            image = push_small(registry)
            # from here, where the registry is
            _run(*server.command_line("--namespace", "k8s.io", "image", "pull", image))
        stack.enter_context(server)
        cri = stack.enter_context(server.client())
        pod = cri.run_pod(
            pod_config(
                "flood",
                directory,
                port_mappings=[pb.PortMapping(container_port=_INNER_PORT, host_port=_PORT)],
            )
        )
        stack.callback(cri.remove_pod, pod)
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image=image),
            command=["/flood", str(_INNER_PORT)],
            mounts=[pb.Mount(host_path=program, container_path="/flood", readonly=True)],
            log_path="flood.log",
        )
        cri.start(cri.create(pod, container))
        yield outside


@contextmanager
def _docker(directory: str, state: str, program: str) -> Generator[str]:
    """The same in Docker."""
    with DockerPeer(directory, state=state) as peer:
        peer.docker("load", "--input", str(image_archive(Path(directory) / "image.tar")))
        with _machine_beside(peer.netns) as outside:
            peer.docker(
                *(
                    "run",
                    "--detach",
                    "--publish",
                    f"{_PORT}:{_INNER_PORT}",
                    "--volume",
                    f"{program}:/flood:ro",
                ),
                *(IMAGE, "/flood", str(_INNER_PORT)),
            )
            yield outside


@contextmanager
def _machine_beside(host: str) -> Generator[str]:
    """A network namespace with a link to that of a host; its name."""
    outside = f"{host}-out"
    _run("ip", "netns", "add", outside)
    try:
        _run(
            "ip",
            "link",
            "add",
            "out0",
            "netns",
            outside,
            "type",
            "veth",
            "peer",
            "name",
            "up0",
            "netns",
            host,
        )
        for place, link, address in ((host, "up0", _HOST), (outside, "out0", _OUTSIDE)):
            _run("ip", "-n", place, "address", "add", f"{address}/24", "dev", link)
            _run("ip", "-n", place, "link", "set", link, "up")
        yield outside
    finally:
        _run("ip", "netns", "delete", outside)


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
