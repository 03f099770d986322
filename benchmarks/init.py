# SPDX-License-Identifier: Apache-2.0
"""One container of a bundle, from request to exit: below a running shim, and by `runc run`, in turn."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from contextlib import ExitStack, closing

from tests.support.leaks import remove_cgroups
from tests.support.patience import eventually
from tests.support.rootfs import make_rootfs
from tests.support.zygotes import end_zygote

from benchmarks.figures import Figure, Stopwatch, in_turn, of_samples
from oakum.linux import sockets
from oakum.model.ids import new_id
from oakum.shim import wire
from oakum.shim.client import ContainerRequest, SandboxRequest, ShimClient, ensure_zygote, spawn_shim
from oakum.shim.client import ExecRequest as ShimExec
from oakum.shim.starter import SOCKET_NAME

PEER = "runc"
CGROUP = f"/oakum-bench-init-{os.getpid()}"


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """Measure; the peer's name and the figures."""
    state = f"{directory}/run/state"
    template = make_bundle(f"{directory}/bundle", ["true"])
    long_lived = make_bundle(f"{directory}/sleeper", ["sleep", "600"])
    with ExitStack() as stack:
        stack.callback(remove_cgroups, CGROUP)
        stack.callback(end_zygote, state)
        warm_zygote(state)
        shim = start_shim(stack, state)
        sleeper = new_id()
        shim.create_and_start(ContainerRequest(sleeper, long_lived))
        runc = ["runc", "--root", f"{directory}/run/runc"]
        subprocess.run([*runc, "run", "-d", "--bundle", long_lived, "sleeper"], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        stack.callback(subprocess.run, [*runc, "delete", "-f", "sleeper"], check=True)
        numbers = itertools.count()

        def by_shim() -> dict[str, float]:
            watch, container = Stopwatch(), new_id()
            watch.step(
                "create and start", lambda: shim.create_and_start(ContainerRequest(container, template))
            )
            assert shim.wait(container, 10).exit_code == 0
            watch.since_start("create, start, run true, wait")
            shim.delete(container)
            watch.since_start("... and delete")
            watch.step("exec true in a running container", lambda: _exec(shim, sleeper))
            return watch.steps

        def by_runc() -> dict[str, float]:
            watch = Stopwatch()
            _quiet([*runc, "run", "--bundle", template, f"c{next(numbers)}"])
            watch.since_start("create, start, run true, wait")
            watch.since_start("... and delete")
            watch.step("exec true in a running container", lambda: _quiet([*runc, "exec", "sleeper", "true"]))
            return watch.steps

        samples = in_turn(rounds, {"oakum": by_shim, PEER: by_runc}, warm_up=3)
        spawns = in_turn(max(5, rounds // 2), {"oakum": lambda: _sandbox(state)}, warm_up=2)
    figures = [of_samples(step, "ms", found) for step, found in {**samples, **spawns}.items()]
    return PEER, figures


def _quiet(argv: list[str]) -> None:
    subprocess.run(
        argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _sandbox(state: str) -> dict[str, float]:
    with ExitStack() as stack:
        watch = Stopwatch()
        watch.step("sandbox: shim and its namespaces", lambda: start_shim(stack, state))
        return watch.steps


def warm_zygote(state: str) -> None:
    """Start the zygote of `state`, and wait until it has rehearsed, as it has long since where a server holds it."""
    ensure_zygote(state)

    def has_rehearsed() -> bool:
        with sockets.connect(state, SOCKET_NAME, timeout_s=10) as zygote:
            return bool(wire.call(zygote, {"op": "ping"}, timeout_s=10, peer="zygote").value["rehearsed"])

    eventually(has_rehearsed, "the zygote has rehearsed", timeout_s=20)


def start_shim(stack: ExitStack, state: str) -> ShimClient:
    """A sandbox with its own network, ipc and uts namespaces; ended with `stack`."""
    sandbox = new_id()
    pod = f"{state}/pods/{sandbox}"
    os.makedirs(pod)
    names = ("network", "ipc", "uts")
    request = SandboxRequest(
        sandbox, pod, create_namespaces=names, hostname="bench", cgroup_path=f"{CGROUP}/{sandbox}"
    )
    shim = spawn_shim(state, request)
    stack.callback(shutil.rmtree, pod, ignore_errors=True)
    stack.callback(shim.close)
    stack.callback(shim.shutdown)
    return shim


def _exec(shim: ShimClient, container: str) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        process = {"args": ["true"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        with closing(shim.exec(container, ShimExec(process), (null, null, null))) as started:
            assert started.wait(10).exit_code == 0
    finally:
        os.close(null)


def make_bundle(path: str, argv: list[str]) -> str:
    """A bundle as `runc spec` writes it, with a busybox root and `argv`; its path."""
    os.makedirs(path)
    subprocess.run(["runc", "spec"], cwd=path, check=True)
    make_rootfs(f"{path}/rootfs")
    with open(f"{path}/config.json", encoding="utf-8") as f:
        spec = json.load(f)
    spec["process"].update(terminal=False, args=argv)
    with open(f"{path}/config.json", "w", encoding="utf-8") as f:
        json.dump(spec, f)
    return path
