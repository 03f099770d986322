# SPDX-License-Identifier: Apache-2.0
"""A time namespace with its clocks' offsets, entered by the container's first process itself. Source: time_namespaces(7)."""

from __future__ import annotations

import os

from oakum.errors import SystemFailure
from oakum.linux import procfs
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.linux.namespaces import CLONE_NEWTIME, setns, unshare
from oakum.linux.process import set_dumpable
from oakum.oci.spec import Linux


def enter_time_namespace(proc_fd: int, linux: Linux, *, unseen: bool) -> None:
    """Make one, set its offsets while nobody is in it, and go there. Raises SystemFailure.

    In a user namespace of its own, the file of the offsets is not this process's unless it can be looked into (is dumpable).
    For that moment it can, if it is `unseen`: nobody in the container is there to look.
    """
    offsets = linux.get("timeOffsets") or {}
    lines = [
        f"{clock} {value.get('secs') or 0} {value.get('nanosecs') or 0}\n" for clock, value in offsets.items()
    ]
    try:
        unshare(CLONE_NEWTIME)
        if lines:
            _write_offsets(proc_fd, "".join(lines), unseen=unseen)
        pid = os.readlink("self", dir_fd=proc_fd)
        with Fd(os.open(f"{pid}/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)) as made:
            setns(made.fileno(), CLONE_NEWTIME)
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure, call_name(failure) or "set clock offsets", "$.linux.timeOffsets"
        ) from failure


def _write_offsets(proc_fd: int, text: str, *, unseen: bool) -> None:
    try:
        procfs.write(proc_fd, "self/timens_offsets", text)
    except PermissionError:
        if not unseen:
            raise
        set_dumpable(True)
        try:
            procfs.write(proc_fd, "self/timens_offsets", text)
        finally:
            set_dumpable(False)
