# SPDX-License-Identifier: Apache-2.0
"""This process' own memory: pages of a file made anonymous, and which file the kernel holds to be the program's."""

from __future__ import annotations

from oakum.linux.libc import (
    Struct,
    bind,
    bind_pointer,
    byref,
    c_int,
    c_long,
    c_size_t,
    c_ulong,
    c_void_p,
    sizeof,
    u32,
    u64,
)
from oakum.linux.pids import stat_fields
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

# Source: mmap(2), mremap(2), prctl(2)
_READ_WRITE: Final = 3
_PRIVATE_ANONYMOUS: Final = 0x22
_MAY_MOVE_TO_FIXED: Final = 3
_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14


class _MemoryMap(Struct):
    # Source: linux/prctl.h, struct prctl_mm_map
    _fields_ = [
        ("start_code", u64),
        ("end_code", u64),
        ("start_data", u64),
        ("end_data", u64),
        ("start_brk", u64),
        ("brk", u64),
        ("start_stack", u64),
        ("arg_start", u64),
        ("arg_end", u64),
        ("env_start", u64),
        ("env_end", u64),
        ("auxv", u64),
        ("auxv_size", u32),
        ("exe_fd", u32),
    ]


# Fields of /proc/PID/stat, from 1, in the order of the structure up to "brk" and behind it. Source: proc_pid_stat(5).
_BEFORE_BRK: Final = (26, 27, 45, 46, 47)
_BEHIND_BRK: Final = (28, 48, 49, 50, 51)

_mmap = bind_pointer("mmap", c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_mremap = bind_pointer("mremap", c_void_p, c_size_t, c_size_t, c_int, c_void_p)
_memmove = bind_pointer("memmove", c_void_p, c_void_p, c_size_t)
_sbrk = bind_pointer("sbrk", c_long)
_mprotect = bind("mprotect", c_void_p, c_size_t, c_int)
_prctl = bind("prctl", c_int, c_ulong, c_void_p, c_ulong, c_ulong)


def make_anonymous(start: int, size: int, protection: int) -> None:
    """Put an anonymous copy of `size` bytes of memory in their place, in one step.

    Source: mmap(2), mprotect(2), mremap(2). Raises OSError.
    """
    copy = _mmap(None, size, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0, target="anonymous copy")
    if protection & 1:
        _memmove(copy, start, size)
    _mprotect(copy, size, protection, target="anonymous copy")
    _mremap(copy, size, size, _MAY_MOVE_TO_FIXED, start, target="anonymous copy")


def exchange_executable(fd: int) -> None:
    """Let /proc/self/exe be the file `fd`; no memory may come from the one before.

    Source: prctl(2), PR_SET_MM_MAP(2const).

    Raises:
        OSError: EPERM without CAP_CHECKPOINT_RESTORE, EINVAL where the kernel is built without this.
    """
    fields = stat_fields("self")
    places = [int(fields[number - 3]) for number in _BEFORE_BRK]
    places += [_sbrk(0, target="sbrk"), *(int(fields[number - 3]) for number in _BEHIND_BRK)]
    new = _MemoryMap(*places, 0, 0, fd)
    _prctl(_PR_SET_MM, _PR_SET_MM_MAP, byref(new), sizeof(new), 0, target="PR_SET_MM_MAP")
