# SPDX-License-Identifier: Apache-2.0
"""Processes by their ids: what /proc says of them, signals, and descriptors by which those reach the one meant or nobody."""

from __future__ import annotations

import os

from oakum.linux.durable import read_file
from oakum.linux.fd import Fd
from oakum.model.light import signal


def pidfd_open(pid: int) -> Fd:
    """A pidfd of a process.

    Source: pidfd_open(2). Raises OSError (ESRCH when it is gone).
    """
    return Fd(os.pidfd_open(pid, 0))


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal exactly that process.

    Source: pidfd_send_signal(2). Raises ProcessLookupError when it has ended.
    """
    signal.pidfd_send_signal(pidfd, number)


def kill_if_there(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that may have ended, and been reaped, by itself. Raises OSError."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def stat_fields(pid: int | str) -> list[bytes]:
    """What the kernel says of a process, from field 3, its state, on; the name before that may hold anything.

    Source: proc_pid_stat(5). Raises OSError (FileNotFoundError or ProcessLookupError when it is gone).
    """
    return read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it has ended, also while it is a zombie.

    Source: proc_pid_stat(5), fields 3 and 22. Raises OSError.
    """
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
