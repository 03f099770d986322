# SPDX-License-Identifier: Apache-2.0
"""The processes that an exec has started, and their end: Docker keeps them in the container's own cgroup.

A process belongs to an exec when it carries its mark in the environment that it was started with, or when a parent,
session or process group of it does. So also one belongs that has left its parents, and one that has a new environment.
Stopped before they are killed, so that none of them can start another meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import Final, NamedTuple

from oakum.errors import SystemFailure
from oakum.linux.pids import stat_fields
from oakum.oci.cgroups.layout import detect_layout

_MARK: Final = "OAKUM_EXEC"
_ROUNDS: Final = 50
_END_S: Final = 5.0


class Process(NamedTuple):
    """One process, as /proc has it."""

    pid: int
    parent: int
    group: int
    session: int
    marked: bool


def new_mark() -> str:
    """An environment variable that no other exec has."""
    return f"{_MARK}={os.urandom(8).hex()}"


def family(processes: list[Process], pid: int) -> set[int]:
    """The processes that belong to the exec whose first one is `pid` (0: not known). Pure."""
    found = {p.pid for p in processes if p.marked or (pid and pid in (p.pid, p.session, p.group))}
    while True:
        more = {
            p.pid
            for p in processes
            if p.pid not in found and (p.parent in found or p.session in found or p.group in found)
        }
        if not more:
            return found
        found |= more


def kill(pid: int, mark: str, cgroup_path: str) -> int:
    """Kill the exec's whole tree, and return when it is gone; how many processes that were.

    Raises:
        SystemFailure: something of it does not end.
    """
    held: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            new = family(_processes(cgroup_path, mark), pid) - held.keys()
            if not new:
                break
            for one in new:
                _hold(one, held)
        for pidfd in held.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _await_end(held)
        return len(held)
    finally:
        for pidfd in held.values():
            os.close(pidfd)


def _hold(pid: int, held: dict[int, int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        held[pid] = os.pidfd_open(pid)
        signal.pidfd_send_signal(held[pid], signal.SIGSTOP)


def _await_end(held: dict[int, int]) -> None:
    waiting, limit = dict(held), time.monotonic() + _END_S
    while waiting:
        poll = select.poll()
        for pidfd in waiting.values():
            poll.register(pidfd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0.0, limit - time.monotonic()) * 1000)}
        waiting = {pid: fd for pid, fd in waiting.items() if fd not in ready}
        if not ready:
            raise SystemFailure("kill", f"processes {sorted(waiting)} of an exec", "they do not end")


def _processes(cgroup_path: str, mark: str) -> list[Process]:
    found: list[Process] = []
    for pid in _pids(cgroup_path):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
            fields = stat_fields(pid)
            if fields[0] in (b"Z", b"X"):
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = mark.encode() in file.read().split(b"\0")
            found.append(Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), marked))
    return found


def _pids(cgroup_path: str) -> list[int]:
    """The processes of a container: of its cgroup with those below it."""
    layout = detect_layout()
    tree = layout.of("pids") or layout.of("memory") or layout.unified
    if tree is None or not cgroup_path:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    found: list[int] = []
    for directory, _, _ in os.walk(f"{tree.mountpoint}{cgroup_path}"):
        try:
            with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                found.extend(int(line) for line in file)
        except OSError:
            continue  # removed, or of threads only: its processes are listed above it
    return found
