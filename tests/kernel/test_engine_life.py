# SPDX-License-Identifier: Apache-2.0
"""Containers that run, are limited, watched, entered, stopped and lost, on the real kernel."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from oakum.backend.config import (
    Resources,
)
from oakum.backend.status import CpuUsage, SandboxStats
from oakum.errors import (
    CommandNotRunnable,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
)
from tests.support.engines import Lab
from tests.support.leaks import cgroup_mounts
from tests.support.patience import eventually, patient


@pytest.mark.parametrize(("command", "code"), [("/no/such/file", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_run(lab: Lab, command: str, code: int) -> None:
    with lab.pod("bad") as pod:
        container = lab.cri.create_container(pod, lab.container("c", command=(command,)))
        with pytest.raises(CommandNotRunnable, match=command):
            lab.cri.start_container(container)
        status = lab.cri.container_status(container)
        assert (status.state, status.exit_code, status.reason) == ("exited", code, "StartError")
        assert command in status.message
        assert lab.cri.wait(container, timeout_s=1).exit_code == code


def test_stopping(lab: Lab) -> None:
    with lab.pod("stop") as pod:
        stubborn = lab.started(pod, "stubborn", "trap '' TERM; sleep 1000 & while :; do sleep 0.1; done")
        began = time.monotonic()
        lab.cri.stop_container(stubborn, timeout_s=0.3)
        assert 0.3 <= time.monotonic() - began < patient(5)
        status = lab.cri.container_status(stubborn)
        assert (status.exit_code, status.reason) == (137, "Error")
        chosen = lab.started(
            pod, "chosen", "trap 'exit 9' HUP; echo; while :; do sleep 0.05; done", stop_signal="HUP"
        )
        eventually(lambda: list(lab.cri.logs(chosen)), "the trap is set")
        lab.cri.stop_container(chosen, timeout_s=60)
        assert lab.cri.container_status(chosen).exit_code == 9


@pytest.mark.cgroup
def test_signals_pause_and_waiting(lab: Lab) -> None:
    with lab.pod("signals") as pod:
        container = lab.started(pod, script="trap 'exit 5' USR1; echo; while :; do sleep 0.05; done")
        eventually(lambda: list(lab.cri.logs(container)), "the trap is set")
        with pytest.raises(DeadlineExceeded):
            lab.cri.wait(container, timeout_s=0.1)
        lab.cri.pause(container)
        assert lab.cri.container_status(container).state == "paused"
        with pytest.raises(FailedPrecondition, match="paused"):
            lab.cri.exec_sync(container, ["true"], timeout_s=1)
        lab.cri.resume(container)
        assert lab.run(container, "echo", "back") == "back\n"
        lab.cri.kill(container, signal.SIGUSR1)
        assert lab.cri.wait(container, timeout_s=60).exit_code == 5
        with pytest.raises(FailedPrecondition, match="exited"):
            lab.cri.kill(container, signal.SIGUSR1)
        paused = lab.started(pod, "paused")
        lab.cri.pause(paused)
        lab.cri.stop_container(paused, timeout_s=5)
        assert lab.cri.container_status(paused).state == "exited"


def test_exec(lab: Lab) -> None:
    with lab.pod("exec") as pod:
        container = lab.started(pod, envs=(("KEPT", "yes"),))
        result = lab.cri.exec_sync(
            container, ["sh", "-c", "echo out; echo err >&2; echo $KEPT; exit 3"], timeout_s=60
        )
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\nyes\n", b"err\n")
        big = lab.cri.exec_sync(container, ["head", "-c", "3000000", "/dev/zero"], timeout_s=60)
        assert len(big.stdout) == 3_000_000
        with pytest.raises(CommandNotRunnable):
            lab.cri.exec_sync(container, ["/none"], timeout_s=60)
        with pytest.raises(InvalidArgument):
            lab.cri.exec_sync(container, [], timeout_s=60)
        began = time.monotonic()
        background = lab.cri.exec_sync(container, ["sh", "-c", "sleep 700 & echo left"], timeout_s=60)
        assert background.stdout == b"left\n"
        assert time.monotonic() - began < patient(8)
        lab.cri.stop_container(container, timeout_s=5)
        with pytest.raises(FailedPrecondition, match="exited"):
            lab.cri.exec_sync(container, ["true"], timeout_s=60)


def test_an_exec_that_takes_too_long_dies_with_all_its_children(lab: Lab) -> None:
    with lab.pod("late") as pod:
        container = lab.started(pod)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            lab.cri.exec_sync(container, ["sh", "-c", "sleep 4321 & sleep 4321"], timeout_s=0.3)
        assert time.monotonic() - began < patient(5)
        eventually(lambda: "4321" not in lab.run(container, "ps"))


@pytest.mark.cgroup
def test_limits_reach_the_kernel_and_can_be_changed(lab: Lab) -> None:
    def memory_limit(path: str) -> int:
        for top in cgroup_mounts():
            for name in ("memory.limit_in_bytes", "memory.max"):
                file = Path(f"{top}{path}/{name}")
                if file.exists():
                    return int(file.read_text())
        raise AssertionError("no memory controller")

    with lab.pod("limits") as pod:
        config = lab.container("c", resources=Resources(memory_limit_bytes=64 << 20, pids_limit=50))
        container = lab.cri.create_container(pod, config)
        lab.cri.update_container_resources(container, Resources(memory_limit_bytes=80 << 20))
        lab.cri.start_container(container)
        path = lab.cri.container_status(container).cgroup_path
        assert memory_limit(path) == 80 << 20
        lab.cri.update_container_resources(container, Resources(memory_limit_bytes=96 << 20))
        assert memory_limit(path) == 96 << 20
        status = lab.cri.container_status(container)
        assert status.resources.memory_limit_bytes == 96 << 20
        assert status.resources.pids_limit == 50
        stats = lab.cri.container_stats(container)
        assert stats.memory is not None
        assert stats.memory.limit_bytes == 96 << 20


@pytest.mark.cgroup
def test_running_out_of_memory_is_said(lab: Lab) -> None:
    with lab.pod("oom") as pod:
        container = lab.started(
            pod, script="x=a; while :; do x=$x$x; done", resources=Resources(memory_limit_bytes=16 << 20)
        )
        assert lab.cri.wait(container, timeout_s=60).oom_killed
        status = lab.cri.container_status(container)
        assert (status.exit_code, status.reason) == (137, "OOMKilled")


@pytest.mark.cgroup
def test_statistics(lab: Lab) -> None:
    with lab.pod("stats") as pod:
        busy = lab.started(pod, "busy", "while :; do :; done")
        lab.started(pod, "idle")

        def all_of_it() -> SandboxStats:
            (found,) = [s for s in lab.cri.list_sandbox_stats() if s.id == pod]
            return found

        def cpu_of(found: SandboxStats, container: str) -> CpuUsage:
            cpu = {c.id: c for c in found.containers}[container].cpu
            assert cpu is not None
            return cpu

        eventually(lambda: (cpu_of(all_of_it(), busy).usage_nano_cores or 0) > 50_000_000, "it is busy")
        found = all_of_it()
        assert len(found.containers) == 2
        cpu = cpu_of(found, busy)
        assert found.cpu is not None
        assert found.cpu.usage_core_ns >= cpu.usage_core_ns
        assert found.default_interface == "eth0"
        assert found.pids >= 2
        lab.run(busy, "sh", "-c", "head -c 200000 /dev/zero > /file")
        alone = lab.cri.container_stats(busy)
        assert alone.memory is not None
        assert alone.memory.working_set_bytes > 0
        assert alone.writable_layer is not None


def test_a_container_whose_shim_is_killed(lab: Lab) -> None:
    with lab.pod("shimless") as pod:
        container = lab.started(pod)
        pid = lab.cri.container_status(container).pid
        os.kill(lab.cri.sandbox_status(pod).shim_pid, signal.SIGKILL)
        eventually(lambda: lab.cri.sandbox_status(pod).state == "not_ready")
        status = lab.cri.container_status(container)
        assert (status.state, status.exit_code, status.reason) == ("exited", 255, "Unknown")
        lab.engine.recover()
        eventually(lambda: not os.path.exists(f"/proc/{pid}"))
        assert lab.cri.container_status(container).exit_code == 255
        assert lab.cri.wait(container, timeout_s=1).reason == "Unknown"
        with pytest.raises(FailedPrecondition):
            lab.cri.create_container(pod, lab.container("more"))
        assert lab.engine.recover() == []


def test_the_log_is_followed_over_a_rotation(lab: Lab) -> None:
    with lab.pod("rotate") as pod:
        container = lab.started(
            pod,
            script="i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.02; done; until [ -e /end ]; do sleep 0.05; done",
        )
        lines = lab.cri.logs(container, follow=True)
        seen = [next(lines).data for _ in range(10)]
        path = lab.cri.container_status(container).log_path
        os.rename(path, f"{path}.1")
        lab.cri.reopen_container_log(container)
        lab.run(container, "touch", "/end")
        seen += [line.data for line in lines]
        assert seen == [b"%d" % n for n in range(40)]
        assert os.path.exists(path)


def test_what_the_host_cannot_do_is_said(lab: Lab) -> None:
    """Without CAP_SYS_RESOURCE a score cannot be lowered: it is clamped, and the container runs."""
    with lab.pod("warned") as pod:
        container = lab.started(pod, resources=Resources(oom_score_adj=-999))
        score = int(lab.run(container, "cat", "/proc/1/oom_score_adj"))
        warnings = lab.cri.inspect_container(container)["warnings"]
        assert (score == -999) != any("oom_score_adj" in line for line in warnings)


def _said(lab: Lab, container_id: str) -> list[str]:
    return [line.data.decode().strip() for line in lab.cri.logs(container_id)]


def test_what_has_ended_is_started_again(lab: Lab) -> None:
    """As `oakum start` and `oakum restart` do: what it wrote, its log and its name stay; a pod's container stays ended."""
    script = "trap 'exit 3' TERM; echo x >> /kept; wc -l < /kept; while :; do sleep 0.05; done"
    config = lab.container("again", script, log_path="")
    sandbox = lab.sandbox("again", owner="container", log_directory="")
    again = lab.cri.create_standalone(sandbox, config)
    try:
        lab.cri.rearm_container(again)  # of what was never started there is nothing to bring back
        for times in (1, 2, 3, 4):
            lab.cri.start_container(again)
            eventually(lambda wanted=times: _said(lab, again) == [str(n + 1) for n in range(wanted)])
            with pytest.raises(FailedPrecondition, match="running"):
                lab.cri.rearm_container(again)
            lab.cri.stop_container(again, timeout_s=60)
            assert lab.cri.container_status(again).exit_code == 3
            if times == 2:
                lab.cri.stop_sandbox(lab.cri.container_status(again).sandbox_id)
            lab.cri.rearm_container(again)
            assert lab.cri.container_status(again).state == "created"
    finally:
        lab.cri.remove_container(again)
    with lab.pod("once") as pod:
        once = lab.started(pod, script="exit 0")
        lab.cri.wait(once, timeout_s=60)
        with pytest.raises(FailedPrecondition, match="started once"):
            lab.cri.rearm_container(once)
