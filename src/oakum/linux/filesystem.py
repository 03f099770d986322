# SPDX-License-Identifier: Apache-2.0
"""Whole file systems: making all of one durable, and what kind one is. Single files are `durable.py`'s."""

from __future__ import annotations

import ctypes

from oakum.linux.libc import bind, c_int, c_void_p

_syncfs = bind("syncfs", c_int)
_fstatfs = bind("fstatfs", c_int, c_void_p)
# struct statfs has 120 bytes on the architectures we know; the first word is the kind
_STATFS_BYTES = 256
# Source: linux/magic.h. Views of the kernel that keep nothing: files there have no size, and some never end.
_VIEWS = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
    }
)


def is_view_of_kernel(fd: int) -> bool:
    """Whether the file system of `fd` holds no files of anybody's, as /proc and /sys. Raises OSError. Source: fstatfs(2)."""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    _fstatfs(fd, ctypes.addressof(answer))
    return int.from_bytes(answer.raw[:8], "little") & 0xFFFFFFFF in _VIEWS


def sync_filesystem(fd: int, *, target: str = "") -> None:
    """Wait until all that was written to the file system of `fd` is on the disk; `target` names it in errors.

    Source: syncfs(2). Raises OSError, also for an earlier write that failed (Linux 5.8).
    """
    _syncfs(fd, target=target)
