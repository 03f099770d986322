# SPDX-License-Identifier: Apache-2.0
"""From rows and what lies on disk to what a caller is told, without asking any shim.

Owns the rules; reads three things only: exit records, whether a process id lives, and this boot's id.
A container has ended when its exit record is there; it runs when its row says it was started, there is no
record, and its shim lives; when the shim is gone without a record nobody can know how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import msgspec

from oakum.backend.status import ContainerState, ContainerStatus, SandboxState, SandboxStatus
from oakum.engine.store.records import ContainerRecord, ExitFacts, SandboxRecord
from oakum.errors import CommandNotRunnable, OakumError
from oakum.linux import pids
from oakum.model.restarts import parse_policy, wants_restart

UNKNOWN_EXIT_CODE = 255
# What containerd reports for a container whose set-up failed before its command was tried.
_SETUP_FAILED = 128

_decode_exit = msgspec.json.Decoder(ExitFacts).decode


def unknown_end(record: ContainerRecord, now_ns: int) -> ExitFacts:
    """What is said of a container whose shim died without a record."""
    return ExitFacts(
        exit_code=UNKNOWN_EXIT_CODE,
        signal=0,
        oom_killed=False,
        started_at_ns=record.started_at_ns,
        finished_at_ns=now_ns,
        reason="Unknown",
        message="its supervisor ended without leaving a record (killed, or the machine restarted)",
    )


def failed_start(error: OakumError, now_ns: int) -> ExitFacts:
    """What is said of a container that never ran."""
    return ExitFacts(
        exit_code=error.exit_code if isinstance(error, CommandNotRunnable) else _SETUP_FAILED,
        signal=0,
        oom_killed=False,
        started_at_ns=0,
        finished_at_ns=now_ns,
        reason="StartError",
        message=str(error),
    )


def read_exit(bundle: str) -> ExitFacts | None:
    """The exit record in a container's directory; None while there is none. A damaged one counts as none."""
    path = f"{bundle}/exit.json"
    # Listings ask this of everything that runs: to be told "no" costs a third of what a failed open does.
    if not os.access(path, os.F_OK):
        return None
    try:
        with open(path, "rb") as file:
            return _decode_exit(file.read())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


@cache
def boot_id() -> str:
    """What is different after every boot. Source: random(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none."""
    return pids.start_ticks(pid) or 0


def shim_lives(record: SandboxRecord) -> bool:
    """Whether the sandbox's shim is that very process still. Exact, one file read."""
    return (
        record.shim_pid > 0
        and record.boot_id == boot_id()
        and process_start(record.shim_pid) == record.shim_start
    )


def shim_seems_alive(record: SandboxRecord) -> bool:
    """As `shim_lives`, for listings: one system call, fooled only by a reused process id until recovery looks."""
    if record.shim_pid <= 0 or record.boot_id != boot_id():
        return False
    try:
        os.kill(record.shim_pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sandbox_state(record: SandboxRecord, *, alive: bool) -> SandboxState:
    """Ready while its namespaces are kept: made to the end, not stopped, its shim alive."""
    return "ready" if record.phase == "ready" and alive else "not_ready"


def container_state(record: ContainerRecord, ended: ExitFacts | None, *, alive: bool) -> ContainerState:
    """The state that CRI and people know."""
    if ended is not None:
        return "exited"
    if record.phase in ("creating", "created"):
        return "created"
    if record.phase == "starting":
        return "created" if alive else "exited"
    if record.started_at_ns == 0:
        # Being removed without ever having been started.
        return "created"
    if not alive:
        return "exited"
    return "paused" if record.paused else "running"


def is_due(record: ContainerRecord, ended: ExitFacts) -> bool:
    """Whether its policy has a container started again after this end, by its shim if that lives."""
    if not record.config.restart or record.stopped_by_user or record.phase == "removing":
        return False
    if not ended.started_at_ns:  # it never ran
        return False
    return wants_restart(parse_policy(record.config.restart), ended.exit_code, record.restart_count)


def sandbox_status(record: SandboxRecord, pod_path: str, *, alive: bool) -> SandboxStatus:
    """What is told about a sandbox."""
    state = sandbox_state(record, alive=alive)
    own_network = record.config.namespaces.network != "node"
    return SandboxStatus(
        id=record.id,
        config=record.config,
        state=state,
        created_at_ns=record.created_at_ns,
        runtime_handler=record.runtime_handler,
        addresses=record.addresses if state == "ready" else (),
        netns_path=f"{pod_path}/ns/net" if own_network and state == "ready" else "",
        shim_pid=record.shim_pid if alive else 0,
        cgroup_path=record.cgroup_path,
    )


def _is_restarting(record: ContainerRecord, ended: ExitFacts | None, state: str) -> bool:
    if state == "created":  # the way back is half done
        return record.restart_count > 0 and not record.stopped_by_user
    return state == "exited" and ended is not None and is_due(record, ended)


def container_status(
    record: ContainerRecord, ended: ExitFacts | None, bundle: str, *, alive: bool, now_ns: Callable[[], int]
) -> ContainerStatus:
    """What is told about a container."""
    state = container_state(record, ended, alive=alive)
    if state == "exited" and ended is None:
        ended = unknown_end(record, now_ns())
    running = state in ("running", "paused")
    return ContainerStatus(
        id=record.id,
        sandbox_id=record.sandbox_id,
        config=record.config,
        state=state,
        created_at_ns=record.created_at_ns,
        started_at_ns=record.started_at_ns or (ended.started_at_ns if ended else 0),
        finished_at_ns=ended.finished_at_ns if ended else 0,
        exit_code=ended.exit_code if ended else 0,
        reason=ended.reason if ended else "",
        message=ended.message if ended else "",
        image_ref=record.image_ref,
        image_id=record.image_id,
        log_path=record.log_path,
        resources=record.resources,
        user=record.user,
        stop_signal=record.stop_signal,
        pid=record.pid if running else 0,
        argv=record.argv,
        cgroup_path=record.cgroup_path,
        bundle_path=bundle,
        restarting=alive and _is_restarting(record, ended, state),
        restart_count=record.restart_count,
    )
