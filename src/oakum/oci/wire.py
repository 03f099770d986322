# SPDX-License-Identifier: Apache-2.0
"""The conversation between a parent and the child that becomes the container's process.

One SOCK_SEQPACKET pair, close-on-exec: a message is one packet of JSON, `{"kind": ..., ...}`, descriptors ride along
by SCM_RIGHTS. The successful `execve` closes the child's end, so end-of-file without an error means "it runs".

    parent                                     child
      |  clone ------------------------------->  |   (everything it needs is inherited memory)
      |  mapped ------------------------------>  |   only with a new user namespace: uid_map and gid_map are written
      |                                          |   joins namespaces, mounts the root file system
      |  cgroup  [fds to write "0" to] ------->  |   the group exists
      |  <-------------------------------- mounted |   only with hooks: the root is complete, not entered yet
      |  hooked ------------------------------>  |   the runtime's hooks have run; the container's own follow
      |                                          |   joins it, pivots, becomes the user, finds the command
      |  <------------- created [console master] |   uid, gid, groups, warnings
      |  start ------------------------------->  |
      |  <------------------------- end of file  |   execve has happened
      |  <-------------------------------- error |   instead of any of the child's messages: OakumError as a dict; the child exits
"""

from __future__ import annotations

import os

from oakum.errors import Internal
from oakum.linux import packets
from oakum.linux.fd import Fd
from oakum.model import message as text
from oakum.model.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Final

_MAX_BYTES: Final = 160 * 1024  # below the default send buffer, so that a packet never blocks half-way


class Message(NamedTuple):
    """One packet."""

    kind: str
    body: dict[str, Any]
    fds: tuple[Fd, ...]


class Channel:
    """One end of the conversation."""

    __slots__ = ("_end",)

    def __init__(self, end: Fd) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """The parent's and the child's end."""
        parent, child = packets.pair()
        return cls(parent), cls(child)

    @classmethod
    def adopt(cls, fd: Fd) -> Channel:
        """An end that came from another process; takes the descriptor over."""
        return cls(Fd(fd.steal()))

    def steal(self) -> int:
        """The descriptor; the caller owns it now."""
        return self._end.steal()

    def fileno(self) -> int:
        """The descriptor, to poll for reading."""
        return self._end.fileno()

    def send(self, kind: str, body: dict[str, Any] | None = None, fds: tuple[int, ...] = ()) -> bool:
        """Send one message; False when the other side is gone. Raises OSError."""
        data = text.encode({**(body or {}), "kind": kind})
        if len(data) > _MAX_BYTES:
            raise Internal("tell parent", kind, f"message of {len(data)} bytes")
        try:
            packets.send(self._end.fileno(), data, fds)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self, *, wait: bool = True) -> Message | None:
        """The next message, or None at end-of-file. Raises BlockingIOError when there is none and not `wait`."""
        try:
            data, numbers = packets.receive(self._end.fileno(), _MAX_BYTES, wait=wait)
        except ConnectionResetError:
            # The other side ended with a message of ours unread. That is told once, before its own last message.
            data, numbers = packets.receive(self._end.fileno(), _MAX_BYTES, wait=wait)
        if not data:
            return None
        body: dict[str, Any] = text.decode(data)
        return Message(str(body.pop("kind")), body, tuple(Fd(number) for number in numbers))

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def die_unless(message: Message | None, kind: str) -> Message:
    """`message` if it is what has to come next; else the parent is gone or gave up, and so does this child."""
    if message is None or message.kind != kind:
        os._exit(1)
    return message
