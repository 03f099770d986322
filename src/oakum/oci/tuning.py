# SPDX-License-Identifier: Apache-2.0
"""Scheduler, I/O priority, memory policy, personality and CPU affinity of a process, from the spec's words to the kernel's.

Loaded only for specs that have them. Spec: config.md "Process", config-linux.md "Memory Policy" and "Personality".
"""

from __future__ import annotations

import os

from oakum.errors import InvalidArgument, SystemFailure
from oakum.linux import tuning as kernel
from oakum.linux.libc import call_name
from oakum.model.light import TYPE_CHECKING, NamedTuple, cast
from oakum.oci.spec import Linux, Process

if TYPE_CHECKING:
    from typing import Any, Final

# Source: linux/sched.h
POLICIES: Final = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_REALTIME: Final = ("SCHED_FIFO", "SCHED_RR")
_IO_CLASSES: Final = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
# Source: linux/mempolicy.h
MEMORY_MODES: Final = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS: Final = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
_WITHOUT_NODES: Final = ("MPOL_DEFAULT", "MPOL_LOCAL")
# Source: linux/personality.h
_DOMAINS: Final = {"LINUX": 0, "LINUX32": 8}
_HIGHEST_NUMBER: Final = 4095


class Tuning(NamedTuple):
    """What is to be set, checked; None is left as it is."""

    scheduling: kernel.Scheduling | None = None
    io_priority: tuple[int, int] | None = None
    memory_policy: tuple[int, tuple[int, ...]] | None = None
    personality: int | None = None


def plan_tuning(process: Process, linux: Linux) -> Tuning:
    """What the spec asks for. Raises InvalidArgument."""
    given, ours = cast("dict[str, Any]", process), cast("dict[str, Any]", linux)
    io_priority: dict[str, Any] = given.get("ioPriority") or {}
    return Tuning(
        _scheduling(given.get("scheduler") or {}),
        (_IO_CLASSES[io_priority["class"]], io_priority.get("priority") or 0) if io_priority else None,
        _memory_policy(ours.get("memoryPolicy") or {}),
        _personality(ours.get("personality") or {}),
    )


def _scheduling(wanted: dict[str, Any]) -> kernel.Scheduling | None:
    if not wanted:
        return None
    path = "$.process.scheduler"
    policy = wanted.get("policy")
    if policy is None:
        raise InvalidArgument("plan process", f"{path}.policy", "missing")
    if wanted.get("priority") and policy not in _REALTIME:
        raise InvalidArgument("plan process", f"{path}.priority", f"only {' and '.join(_REALTIME)} have one")
    timed = [name for name in ("runtime", "deadline", "period") if wanted.get(name)]
    if timed and policy != "SCHED_DEADLINE":
        raise InvalidArgument("plan process", f"{path}.{timed[0]}", "only SCHED_DEADLINE has one")
    if not 0 <= (wanted.get("priority") or 0) <= 99:
        raise InvalidArgument("plan process", f"{path}.priority", "not within 0 and 99")
    flags = 0
    for name in wanted.get("flags") or ():
        flags |= _SCHED_FLAGS[name]
    return kernel.Scheduling(
        POLICIES[policy],
        flags,
        wanted.get("nice") or 0,
        wanted.get("priority") or 0,
        wanted.get("runtime") or 0,
        wanted.get("deadline") or 0,
        wanted.get("period") or 0,
    )


def _memory_policy(wanted: dict[str, Any]) -> tuple[int, tuple[int, ...]] | None:
    if not wanted:
        return None
    path, mode = "$.linux.memoryPolicy", wanted["mode"]
    nodes = parse_list(wanted.get("nodes") or "", f"{path}.nodes")
    if nodes and mode in _WITHOUT_NODES:
        raise InvalidArgument("plan container", f"{path}.nodes", f"{mode} takes none")
    if not nodes and mode not in (*_WITHOUT_NODES, "MPOL_PREFERRED"):
        raise InvalidArgument("plan container", f"{path}.nodes", f"{mode} needs some")
    value = MEMORY_MODES[mode]
    for name in wanted.get("flags") or ():
        value |= MEMORY_FLAGS[name]
    return value, tuple(sorted(nodes))


def _personality(wanted: dict[str, Any]) -> int | None:
    if not wanted:
        return None
    if wanted.get("flags"):
        # The specification has the member, but names no flag that it may hold.
        raise InvalidArgument("plan container", "$.linux.personality.flags", "no flag is known")
    return _DOMAINS[wanted["domain"]]


def parse_list(text: str, path: str) -> set[int]:
    """The numbers of a list such as "0-3,8". Raises InvalidArgument."""
    found: set[int] = set()
    for part in text.replace(" ", "").split(","):
        if not part:
            continue
        first, separator, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() if separator else True)):
            raise InvalidArgument("read OCI spec", path, f"{part!r} is no number and no range")
        low, high = int(first), int(last or first)
        if not low <= high <= _HIGHEST_NUMBER:
            raise InvalidArgument("read OCI spec", path, f"{part!r} is not within 0 and {_HIGHEST_NUMBER}")
        found.update(range(low, high + 1))
    return found


def apply(tuning: Tuning) -> None:
    """Set it for the calling thread, which has its capabilities still. Raises SystemFailure."""
    subject = ""
    try:
        if tuning.scheduling is not None:
            subject = "process.scheduler"
            kernel.set_scheduling(tuning.scheduling)
        if tuning.io_priority is not None:
            subject = "process.ioPriority"
            kernel.set_io_priority(*tuning.io_priority)
        if tuning.memory_policy is not None:
            subject = "linux.memoryPolicy"
            kernel.set_memory_policy(*tuning.memory_policy)
        if tuning.personality is not None:
            subject = "linux.personality"
            kernel.set_personality(tuning.personality)
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure, call_name(failure), f"{subject} ({failure.filename})"
        ) from failure


def set_affinity(process: Process, moment: str) -> None:
    """Run on the CPUs of process.execCPUAffinity: `moment` is "initial" (outside the cgroup) or "final" (inside).

    Raises InvalidArgument, SystemFailure.
    """
    wanted: dict[str, str] = cast("dict[str, Any]", process).get("execCPUAffinity") or {}
    if text := wanted.get(moment):
        path = f"$.process.execCPUAffinity.{moment}"
        cpus = parse_list(text, path)
        if not cpus:
            raise InvalidArgument("read OCI spec", path, f"{text!r} names no CPU")
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "sched_setaffinity", f"{path} {text!r}") from failure
