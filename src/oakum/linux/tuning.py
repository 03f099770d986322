# SPDX-License-Identifier: Apache-2.0
"""How the kernel schedules, places and presents a process: scheduler, I/O priority, memory policy, personality.

All of it is inherited over execve. What the values are called in a spec is said by `oci.tuning`.
"""

from __future__ import annotations

from oakum.linux.libc import (
    Struct,
    bind,
    bind_call,
    byref,
    c_int,
    c_uint,
    c_ulong,
    c_void_p,
    i32,
    sizeof,
    u32,
    u64,
)
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_CLASS_SHIFT: Final = 13
_BITS_PER_LONG: Final = 8 * sizeof(c_ulong)


class _SchedAttr(Struct):
    # Source: sched_setattr(2), struct sched_attr in its first version
    _fields_ = [
        ("size", u32),
        ("policy", u32),
        ("flags", u64),
        ("nice", i32),
        ("priority", u32),
        ("runtime", u64),
        ("deadline", u64),
        ("period", u64),
    ]


class Scheduling(NamedTuple):
    """Values of sched_setattr(2); times in nanoseconds."""

    policy: int
    flags: int = 0
    nice: int = 0
    priority: int = 0
    runtime_ns: int = 0
    deadline_ns: int = 0
    period_ns: int = 0


_sched_setattr = bind_call("sched_setattr", c_int, c_void_p, c_uint)
_ioprio_set = bind_call("ioprio_set", c_int, c_int, c_int)
_set_mempolicy = bind_call("set_mempolicy", c_int, c_void_p, c_ulong)
_personality = bind("personality", c_ulong)


def set_scheduling(values: Scheduling) -> None:
    """Have the calling thread scheduled by these values.

    Source: sched_setattr(2). Raises OSError.
    """
    attr = _SchedAttr(
        sizeof(_SchedAttr),
        values.policy,
        values.flags,
        values.nice,
        values.priority,
        values.runtime_ns,
        values.deadline_ns,
        values.period_ns,
    )
    _sched_setattr(0, byref(attr), 0, target=f"policy {values.policy}")


def set_io_priority(kind: int, level: int) -> None:
    """The calling thread's I/O class (1 realtime, 2 best effort, 3 idle) and level (0 highest to 7).

    Source: ioprio_set(2). Raises OSError.
    """
    _ioprio_set(
        _IOPRIO_WHO_PROCESS, 0, kind << _IOPRIO_CLASS_SHIFT | level, target=f"class {kind} level {level}"
    )


def set_memory_policy(mode: int, nodes: tuple[int, ...]) -> None:
    """Where the calling thread's memory comes from; `mode` with its flags.

    Source: set_mempolicy(2). Raises OSError.
    """
    if not nodes:
        _set_mempolicy(mode, None, 0, target=f"mode {mode}")
        return
    words = max(nodes) // _BITS_PER_LONG + 1
    mask = (c_ulong * words)()
    for node in nodes:
        mask[node // _BITS_PER_LONG] |= 1 << node % _BITS_PER_LONG
    # The kernel looks at one bit less than it is told of.
    _set_mempolicy(mode, byref(mask), words * _BITS_PER_LONG + 1, target=f"mode {mode} nodes {nodes}")


def set_personality(persona: int) -> None:
    """The execution domain of the calling process.

    Source: personality(2). Raises OSError.
    """
    _personality(persona, target=f"{persona:#x}")
