# SPDX-License-Identifier: Apache-2.0
"""Undo a sandbox: what its shim does at the end, and what recovery does for a shim that was killed.

Every step tolerates that it was done before. Owns what is in the pod's directory, the pins, the mounts and the
cgroups; not the directory itself and not the containers' bundles.

The shim notes each process it starts in DIRECTORY/processes/NAME, so that processes can be found whose cgroup is not below
the pod's, and no other process is hit that got the same number. A note is a symbolic link, made in one call and whole
or absent: its text is process id, start time and cgroup path with a space between them. Shims of older versions, which
may outlive the server that started them, note the same in a file of JSON.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import time
from typing import Any, Final

from oakum.errors import FailedPrecondition, OakumError, SystemFailure
from oakum.linux import mount, pids
from oakum.linux.durable import read_file
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.shim.requests import PIN_NAMES

PID_NAME: Final = "shim.pid"
SOCKET_NAME: Final = "shim.sock"
LOG_NAME: Final = "shim.log"
PROCESSES_NAME: Final = "processes"
# A file system of its own for foreign runtimes: what they keep of their containers goes with it.
RUNTIME_NAME: Final = "runtime"

_KILL_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.005


def cleanup_directory(directory: str, cgroup_path: str) -> None:
    """Kill what is left of a sandbox, remove its cgroups, unpin its namespaces, unmount, remove directory entries.

    For a sandbox whose shim is dead; idempotent. `cgroup_path` "" leaves no pod cgroup to remove.

    Raises:
        FailedPrecondition: its shim is alive.
        SystemFailure: something could not be removed.
        DeadlineExceeded: a process would not die.
    """
    try:
        lock_fd = os.open(os.path.join(directory, PID_NAME), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        lock_fd = -1
    try:
        if lock_fd >= 0:
            _refuse_if_alive(lock_fd, directory)
        for name in noted(directory):
            end_noted(directory, name)
        if cgroup_path:
            remove_cgroup(cgroup_path)
        remove_entries(directory)
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)


def _refuse_if_alive(lock_fd: int, directory: str) -> None:
    if not take_lock(lock_fd):
        raise FailedPrecondition(
            "clean up sandbox", directory, "its shim is alive", hint="ask the shim to shut down"
        )


def take_lock(lock_fd: int) -> bool:
    """Lock an open shim.pid, waiting if its shim is dead and a fork of it only about to be; False if it is alive."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock_fd, 20, 0).strip()
            if not owner.isdigit() or pids.start_ticks(int(owner)) is not None or time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def remove_cgroup(path: str) -> None:
    """Kill what is in the cgroup and remove it with all below. Raises SystemFailure, DeadlineExceeded."""
    group = Cgroup(detect_layout(), path)
    if group.exists():
        group.kill_all()
        group.remove()


# -- notes of processes -------------------------------------------------------------------------------------------


def note_process(directory: str, name: str, pid: int, cgroup_path: str) -> None:
    """Remember a process for the case that this shim is killed. Raises OSError."""
    note = f"{pid} {pids.start_ticks(pid) or 0} {cgroup_path}"
    path = os.path.join(directory, PROCESSES_NAME, name)
    try:
        os.symlink(note, path)
    except FileExistsError:  # of another process under this name
        new = os.path.join(directory, PROCESSES_NAME, f".{name}")
        try:
            os.symlink(note, new)
        except FileExistsError:  # whoever made it was killed
            os.unlink(new)
            os.symlink(note, new)
        os.rename(new, path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.symlink(note, path)


def forget_process(directory: str, name: str) -> None:
    """The process and its cgroup are gone."""
    _remove(os.unlink, os.path.join(directory, PROCESSES_NAME, name))


def noted(directory: str) -> list[str]:
    """The names of all notes that are whole."""
    try:
        names = os.listdir(os.path.join(directory, PROCESSES_NAME))
    except FileNotFoundError:
        return []
    return [name for name in names if not name.startswith(".")]


def end_noted(directory: str, name: str) -> None:
    """Kill a noted process, wait until it is dead, and forget it. Raises SystemFailure, DeadlineExceeded."""
    path = os.path.join(directory, PROCESSES_NAME, name)
    try:
        pid, started, cgroup = _read_note(path)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SystemFailure("read", path, f"damaged: {error}") from error
    _kill(pid, started)
    if cgroup:
        remove_cgroup(cgroup)
    forget_process(directory, name)


def _read_note(path: str) -> tuple[int, int, str]:
    try:
        pid, started, cgroup = os.readlink(path).split(" ", 2)
    except OSError as failure:
        if failure.errno != errno.EINVAL:
            raise
        from oakum.model import jsontext  # no shim of this version pays for it

        note: Any = jsontext.loads(read_file(path))
        return int(note["pid"]), int(note["start_time"]), str(note["cgroup_path"])
    return int(pid), int(started), cgroup


def _kill(pid: int, started: int) -> None:
    """SIGKILL exactly the process that started then, and wait until it is dead."""
    try:
        handle = pids.pidfd_open(pid)
    except (ProcessLookupError, OSError) as failure:
        if failure.errno in (errno.ESRCH, errno.EINVAL):
            return
        raise SystemFailure.from_os_error(failure, "open process", str(pid)) from failure
    with handle:
        try:
            fields = pids.stat_fields(pid)
        except (FileNotFoundError, ProcessLookupError):
            return
        # Of its first thread, which may have ended before the others.
        if int(fields[19]) != started:
            return
        try:
            pids.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
        except ProcessLookupError:
            return
        poll = select.poll()
        poll.register(handle.fileno(), select.POLLIN)
        if not poll.poll(_KILL_TIMEOUT_S * 1000):
            raise SystemFailure("kill", f"process {pid}", f"still there after {_KILL_TIMEOUT_S:g} s")


# -- directory entries --------------------------------------------------------------------------------------------


def remove_entries(directory: str) -> None:
    """Unpin the namespaces, unmount the shared memory, remove every entry the shim made.

    shim.pid, whose lock says that a shim lives, goes last.

    Raises:
        SystemFailure: something could not be removed.
    """
    try:
        for pin in PIN_NAMES.values():
            _unmount_all(os.path.join(directory, "ns", pin))
            _remove(os.unlink, os.path.join(directory, "ns", pin))
        _remove(os.rmdir, os.path.join(directory, "ns"))
        for name in ("shm", RUNTIME_NAME):
            _unmount_all(os.path.join(directory, name))
            _remove(os.rmdir, os.path.join(directory, name))
        notes = os.path.join(directory, PROCESSES_NAME)
        if os.path.isdir(notes):
            for name in os.listdir(notes):
                _remove(os.unlink, os.path.join(notes, name))
            _remove(os.rmdir, notes)
        for name in (SOCKET_NAME, LOG_NAME, PID_NAME):
            _remove(os.unlink, os.path.join(directory, name))
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "clean up sandbox", directory) from failure


def _unmount_all(path: str) -> None:
    while True:
        try:
            mount.unmount(path, detach=True)
        except OSError as failure:
            if failure.errno in (errno.EINVAL, errno.ENOENT):  # not a mount (any more)
                return
            raise


def _remove(how: Any, path: str) -> None:
    try:
        how(path)
    except FileNotFoundError:
        pass


def attempt(step: Any, *arguments: Any) -> OakumError | None:
    """Run one step of a tear-down and give back its error, so that the following steps still run."""
    try:
        step(*arguments)
    except OakumError as error:
        return error
    return None
