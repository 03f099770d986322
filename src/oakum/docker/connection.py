# SPDX-License-Identifier: Apache-2.0
"""One HTTP connection to Docker's unix socket, with a deadline over all that happens on it.

http.client limits each read; a peer that trickles would hold a caller for ever. Here the whole exchange is limited.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import select
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final

_RECEIVE_BYTES: Final = 64 << 10


def readable(descriptors: Iterable[int], timeout_s: float | None) -> set[int]:
    """Those that have something to read, or have ended, within the time; not by select(2), which knows numbers up to 1023 only."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if timeout_s is None else math.ceil(max(0.0, timeout_s) * 1000))}


class _Incoming(io.RawIOBase):
    """What comes from the peer, each read within what is left of the time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] - what BufferedReader hands in
        return self._wire.receive_into(buffer)


class Wire:
    """The socket as http.client wants it: `sendall`, `makefile` and `close`."""

    def __init__(self, path: str, deadline: float | None) -> None:
        self._deadline = deadline
        self._idle_s: float | None = None
        self.received = False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(self._left_s())
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise

    def limit(self, deadline: float | None, *, idle_s: float | None = None) -> None:
        """End everything at `deadline` of the monotonic clock; without one, a read that waits for `idle_s`."""
        self._deadline = deadline
        self._idle_s = idle_s
        self.received = False

    def _left_s(self) -> float | None:
        if self._deadline is None:
            return self._idle_s
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("time is over")
        return left_s

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; how many came, 0 at the end. Raises OSError."""
        self.socket.settimeout(self._left_s())
        count = self.socket.recv_into(buffer)
        self.received = self.received or count > 0
        return count

    def sendall(self, data: bytes) -> None:
        """Send everything. Raises OSError."""
        self.socket.settimeout(self._left_s())
        self.socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader of what comes."""
        assert mode == "rb"
        return io.BufferedReader(_Incoming(self), _RECEIVE_BYTES)

    def stale(self) -> bool:
        """Whether the peer has left, or says what nobody asked for: of no use any more."""
        return bool(readable((self.socket.fileno(),), 0))

    def peer_pid(self) -> int:
        """The process that listens, or did first. Source: unix(7) SO_PEERCRED."""
        credentials = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def shut(self) -> None:
        """End what is under way, from any thread; the socket stays its owner's to close."""
        with contextlib.suppress(OSError):  # the peer, or its owner, has closed it already
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class Connection(http.client.HTTPConnection):
    """A connection that may be kept for further calls."""

    def __init__(self, path: str, deadline: float | None) -> None:
        super().__init__("docker")
        self.wire = Wire(path, deadline)
        self.sock = self.wire

    def connect(self) -> None:
        """Refuse: a connection is made once, and its owner decides about another one."""
        raise ConnectionResetError("the connection is closed")


def read_head(sock: socket.socket, deadline: float, limit_bytes: int = 64 << 10) -> bytes:
    """The head of an answer and not a byte behind it, which belongs to a stream. Raises OSError."""
    head = b""
    while len(head) < limit_bytes:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        seen = sock.recv(4096, socket.MSG_PEEK)
        if not seen:
            raise ConnectionResetError("the connection ended within the answer's head")
        # the end may lie across what was taken already
        end = (head[-3:] + seen).find(b"\r\n\r\n")
        take = len(seen) if end < 0 else end + 4 - len(head[-3:])
        head += sock.recv(take)
        if end >= 0:
            return head
    raise ConnectionResetError("an answer's head without end")
