# SPDX-License-Identifier: Apache-2.0
"""Whole file systems: making everything written to one of them durable. Single files are `durable.py`'s."""

from __future__ import annotations

from oakum.linux.libc import bind, c_int

_syncfs = bind("syncfs", c_int)


def sync_filesystem(fd: int, *, target: str = "") -> None:
    """Wait until all that was written to the file system of `fd` is on the disk; `target` names it in errors.

    Source: syncfs(2). Raises OSError, also for an earlier write that failed (Linux 5.8).
    """
    _syncfs(fd, target=target)
