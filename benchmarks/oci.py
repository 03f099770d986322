# SPDX-License-Identifier: Apache-2.0
"""`oakum-oci` and `runc`, as dockerd and containerd call them: whole commands on one bundle, in turn; and what a warm shim needs for the same."""

from __future__ import annotations

import itertools
import subprocess
from contextlib import ExitStack

from tests.kernel.oci_cli_box import OAKUM_OCI
from tests.support.leaks import remove_cgroups
from tests.support.zygotes import end_zygote

from benchmarks.figures import Figure, Stopwatch, Target, in_turn, of_samples
from benchmarks.init import CGROUP, make_bundle, start_shim, warm_zygote
from oakum.model.ids import new_id
from oakum.shim.client import ContainerRequest

PEER = "runc"
OURS = str(OAKUM_OCI)
_TARGETS = {"run true": Target(1.0), "run true, by the zygote": Target(0.25)}


def run(directory: str, rounds: int) -> tuple[str, list[Figure]]:
    """Measure; the peer's name and the figures."""
    state = f"{directory}/run/state"
    bundle = make_bundle(f"{directory}/bundle", ["true"])
    sleeper = make_bundle(f"{directory}/sleeper", ["sleep", "600"])
    numbers = itertools.count()
    with ExitStack() as stack:
        sides = {
            "oakum": [OURS, "--root", f"{directory}/run/oci"],
            PEER: ["runc", "--root", f"{directory}/run/runc"],
        }
        for runtime in sides.values():
            _quiet([*runtime, "run", "--detach", "--bundle", sleeper, "sleeper"])
            stack.callback(_quiet, [*runtime, "delete", "--force", "sleeper"])
        stack.callback(remove_cgroups, CGROUP)
        stack.callback(end_zygote, state)
        warm_zygote(state)
        shim = start_shim(stack, state)

        def commands(runtime: list[str], *, warm: bool) -> dict[str, float]:
            watch, name = Stopwatch(), f"c{next(numbers)}"
            watch.step("run true", lambda: _quiet([*runtime, "run", "--bundle", bundle, name]))
            if not warm:  # the same command, compared with another of ours
                watch.steps["run true, by the zygote"] = watch.steps["run true"]
            watch.step("create", lambda: _quiet([*runtime, "create", "--bundle", bundle, name]))
            watch.step("state", lambda: _quiet([*runtime, "state", name]))
            watch.step("delete", lambda: _quiet([*runtime, "delete", "--force", name]))
            watch.step("exec true", lambda: _quiet([*runtime, "exec", "sleeper", "true"]))
            return watch.steps

        def ours() -> dict[str, float]:
            found = commands(sides["oakum"], warm=True)
            watch, container = Stopwatch(), new_id()

            def by_shim() -> None:
                shim.create_and_start(ContainerRequest(container, bundle))
                assert shim.wait(container, 30).exit_code == 0
                shim.delete(container)

            watch.step("run true, by the zygote", by_shim)
            return {**found, **watch.steps}

        samples = in_turn(rounds, {"oakum": ours, PEER: lambda: commands(sides[PEER], warm=False)}, warm_up=2)
    return PEER, [of_samples(step, "ms", found, _TARGETS.get(step)) for step, found in samples.items()]


def _quiet(argv: list[str]) -> None:
    subprocess.run(
        argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
