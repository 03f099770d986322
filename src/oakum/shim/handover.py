# SPDX-License-Identifier: Apache-2.0
"""What a supervisor leaves for the keeper and for its successor when nothing happens, and how it travels.

    supervisor: Parcel ──send──► link, then exits ──receive──► keeper: Left ──fork──► successor: Left.state

Values travel as marshal, the format that the interpreter reads and writes without any code in Python: both ends are
forks of one process. The keeper reads its own part only, who is expected to end and whose output to log; the rest
stays in a memfd until a successor reads it. Owns the form, not the meaning of the state.
"""

from __future__ import annotations

import marshal
import os
import struct
from typing import Any, Final, NamedTuple

from oakum.linux import sockets
from oakum.shim.logs import Log

# A child that has ended, on its way from the keeper to the supervisor: process id and wait status.
END: Final = struct.Struct("=2i")

# What a supervisor returns, and exits with.
OVER: Final = 0  # the sandbox is no more
HANDED_OVER: Final = 3

_AT_ONCE: Final = sockets.MAX_FDS
# The places of what every parcel has.
_KEEPERS_PART, _STATE, _STDERR, _LISTENER, _FIRST = range(5)

State = dict[str, Any]
# A container's id, its log as `Log.pack` gives it, names and places of the streams that go there.
_PackedLog = tuple[str, Any, list[tuple[str, int]]]


class Parcel:
    """A supervisor's state while it is put together; descriptors are lent, and named by their place in it."""

    def __init__(self, listener_fd: int) -> None:
        self._fds: list[int] = [2, listener_fd]
        self._expected: list[int] = []
        self._logs: list[_PackedLog] = []

    def add(self, fd: int) -> int:
        """The place of a descriptor."""
        self._fds.append(fd)
        return len(self._fds) - 1 + _STDERR

    def expect(self, pid: int) -> None:
        """The end of this child wakes a supervisor."""
        self._expected.append(pid)

    def add_log(self, container_id: str, packed_log: Any, outputs: list[tuple[str, int]]) -> None:
        """A container's log and the streams, as name and place, that are written to it meanwhile."""
        self._logs.append((container_id, packed_log, outputs))

    def send(self, link: sockets.Socket, state: State) -> None:
        """Hand everything over. Raises OSError: the supervisor cannot leave, and must not try again."""
        keepers_fd = _in_memory((self._expected, self._logs))
        try:
            state_fd = _in_memory(state)
            try:
                fds = [keepers_fd, state_fd, *self._fds]
                starts = range(0, len(fds), _AT_ONCE)
                for start in starts:
                    last = b"." if start == starts[-1] else b"+"
                    sockets.send_with_fds(link, last, fds[start : start + _AT_ONCE])
            finally:
                os.close(state_fd)
        finally:
            os.close(keepers_fd)


class Left(NamedTuple):
    """What the keeper has of a supervisor that has left. It owns `fds`."""

    fds: list[int]
    expected: list[int]
    logs: dict[str, Log]
    outputs: list[tuple[int, str, Log]]

    @property
    def stderr_fd(self) -> int:
        """The pod's log."""
        return self.fds[_STDERR]

    @property
    def listener_fd(self) -> int:
        """The socket that clients connect to."""
        return self.fds[_LISTENER]

    def state(self) -> State:
        """What the supervisor has to know."""
        fd = self.fds[_STATE]
        return marshal.loads(os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0))  # noqa: S302 - our own fork wrote it

    def close_what_is_read(self) -> None:
        """Close the descriptors that a successor has no use for."""
        sockets.close_all(self.fds[:_LISTENER])


def receive(link: sockets.Socket) -> Left:
    """What a supervisor has sent that has handed over."""
    fds: list[int] = []
    mark = b"+"
    while mark != b".":
        mark, more = sockets.receive_with_fds(link, 1)
        fds += more
    expected: list[int]
    packed: list[_PackedLog]
    expected, packed = marshal.loads(os.pread(fds[0], os.lseek(fds[0], 0, os.SEEK_END), 0))  # noqa: S302 - our own fork wrote it
    logs: dict[str, Log] = {}
    outputs: list[tuple[int, str, Log]] = []
    for container_id, packed_log, streams in packed:
        logs[container_id] = log = Log.unpack(packed_log, fds)
        for name, place in streams:
            outputs.append((fds[place], name, log))
    return Left(fds, expected, logs, outputs)


def _in_memory(value: Any) -> int:
    fd = os.memfd_create("oakum-handover", os.MFD_CLOEXEC)
    try:
        data = marshal.dumps(value)
        if os.write(fd, data) != len(data):
            raise OSError("a memory file was not written in one piece")
    except BaseException:
        os.close(fd)
        raise
    return fd
