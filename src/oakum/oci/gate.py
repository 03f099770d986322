# SPDX-License-Identifier: Apache-2.0
"""Where a created container waits when its maker does not: two fifos in a directory that only the owner can enter.

    init (holds both open)                     a later process
      reads start.fifo ........................ opens it to write: ENXIO says that init is gone
      <---------------------------- one byte
      execve closes status.fifo --------------> end-of-file: it runs
      or an OakumError as JSON ---------------> raised there

Fifos and not a socket: what init does after its system call filter is loaded is read and write, which every filter allows.
"""

from __future__ import annotations

import errno
import os
import time

from oakum.errors import DeadlineExceeded, FailedPrecondition, OakumError, from_dict
from oakum.linux.fd import Fd
from oakum.model import jsontext as json
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

_START: Final = "start.fifo"
_STATUS: Final = "status.fifo"


class Gate:
    """The side of the container's first process; made by its parent, inherited by it."""

    def __init__(self, directory: str) -> None:
        """Make the fifos. Raises OSError."""
        self._fds: list[Fd] = []
        for name in (_START, _STATUS):
            path = os.path.join(directory, name)
            os.mkfifo(path, 0o600)
            # Open both ways: neither end has to wait for the other, and there is never an end-of-file by accident.
            self._fds.append(Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)))

    def wait(self) -> None:
        """Block until somebody starts the container. Raises OSError."""
        os.read(self._fds[0].fileno(), 1)

    def report(self, error: OakumError) -> None:
        """Tell whoever started the container why it does not run. Raises OSError."""
        # Each text cut, so that the whole stays below the size of a pipe and never blocks: they come from the image.
        told = {
            key: value[:4096] if isinstance(value, str) else value for key, value in error.to_dict().items()
        }
        os.write(self._fds[1].fileno(), json.dumps({"error": told}).encode())

    def filenos(self) -> set[int]:
        """The descriptors, lent."""
        return {fd.fileno() for fd in self._fds}

    def close(self) -> None:
        """Close this process' ends."""
        for fd in self._fds:
            fd.close()


def is_waiting(directory: str) -> bool:
    """Whether the container has not been started yet, and its process is there to be. Raises OSError."""
    try:
        os.close(os.open(os.path.join(directory, _START), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as failure:
        if failure.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    return True


def open_gate(directory: str, timeout_s: float = 30.0) -> None:
    """Start the container that waits in `directory`; returns when its command runs.

    Raises:
        FailedPrecondition: its process has ended.
        OakumError: what kept the command from running, as its process said it.
    """
    with _open_end(directory, _STATUS, os.O_RDONLY) as status:
        with _open_end(directory, _START, os.O_WRONLY) as start:
            os.write(start.fileno(), b"0")
        data = _read_all(status.fileno(), timeout_s)
    close_gate(directory)
    if data:
        raise from_dict(json.loads(data)["error"])


def _open_end(directory: str, name: str, flags: int) -> Fd:
    try:
        return Fd(os.open(os.path.join(directory, name), flags | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as failure:
        if failure.errno in (errno.ENXIO, errno.ENOENT):
            raise FailedPrecondition(
                "start container", "", "cannot start a container that has stopped"
            ) from failure
        raise


def close_gate(directory: str) -> None:
    """Remove the fifos: from now on the container counts as started. Raises OSError."""
    for name in (_START, _STATUS):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            continue


def _read_all(fd: int, timeout_s: float) -> bytes:
    import select  # only who starts a container waits

    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    while True:
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poll.poll(left_ms):
            raise DeadlineExceeded("start container", "", f"no word from its process after {timeout_s:g} s")
        chunk = os.read(fd, 65536)
        if not chunk:
            return data
        data += chunk
