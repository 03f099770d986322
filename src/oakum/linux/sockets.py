# SPDX-License-Identifier: Apache-2.0
"""Unix sockets by directory descriptor, and messages that carry descriptors.

Owns: binding and connecting below the 108 byte limit of a socket address, and the 4 byte length that frames
every message together with its SCM_RIGHTS descriptors. Not here: what the messages mean (`oakum.shim.wire`).
What a shim runs uses the C type `_socket.socket` and plain numbers: the class and the enums of `socket`, written in
Python, would cost each shim 150 KB. Both kinds of sockets are taken everywhere.
"""

from __future__ import annotations

import _socket
import _struct as struct  # all of `struct` is there
import errno
import os
import time

from oakum.model.light import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Final

LENGTH_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 8 << 20
MAX_FDS: Final = 64
_RIGHTS_SPACE: Final = _socket.CMSG_SPACE(MAX_FDS * 4)
_RECEIVE_BYTES: Final = 64 << 10
_AF_UNIX: Final = _socket.AF_UNIX
_SOCK_STREAM: Final = _socket.SOCK_STREAM
_SOCK_SEQPACKET: Final = _socket.SOCK_SEQPACKET
_SOL_SOCKET: Final = _socket.SOL_SOCKET
_SCM_RIGHTS: Final = _socket.SCM_RIGHTS
_MSG_CMSG_CLOEXEC: Final = _socket.MSG_CMSG_CLOEXEC
_MSG_CTRUNC: Final = _socket.MSG_CTRUNC
_NO_SIGNAL: Final = _socket.MSG_NOSIGNAL
_NO_WAIT: Final = _socket.MSG_DONTWAIT | _MSG_CMSG_CLOEXEC

Socket = _socket.socket
# What `socket.socket.accept` wraps.
_accept = cast("Callable[[Socket], tuple[int, object]]", vars(Socket)["_accept"])


class FrameTooLarge(ValueError):
    """The peer announced a message longer than `MAX_FRAME_BYTES`."""


def listen(directory_fd: int, name: str, *, backlog: int = 128) -> Socket:
    """A non-blocking listening socket at `name` in the directory, for its owner only.

    The address goes through /proc/self/fd, so the directory's path may be longer than 108 bytes.
    Source: unix(7).
    """
    sock = Socket(_AF_UNIX, _SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        sock.bind(f"/proc/self/fd/{directory_fd}/{name}")
        sock.listen(backlog)
        sock.settimeout(0)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(old_mask)
    return sock


def connect(directory: str, name: str, *, timeout_s: float) -> socket.socket:
    """A connected socket, with `timeout_s` as its timeout, to what listens at `name` in `directory`.

    Raises:
        OSError: ENOENT and ECONNREFUSED when nobody listens.
    Source: unix(7).
    """
    import socket  # few need the class that is written in Python

    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect_until(sock, f"/proc/self/fd/{directory_fd}/{name}", timeout_s)
        except OSError:
            sock.close()
            raise
        return sock
    finally:
        os.close(directory_fd)


def _connect_until(sock: socket.socket, address: str, timeout_s: float) -> None:
    # A full backlog answers EAGAIN at once on a non-blocking unix socket (connect(2)), and a socket with a
    # timeout is non-blocking inside: so wait and try again.
    deadline = time.monotonic() + timeout_s
    sock.settimeout(timeout_s)
    while True:
        try:
            sock.connect(address)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.002)


def accept(listener: Socket) -> Socket:
    """The next connection, blocking. Raises OSError (BlockingIOError when there is none)."""
    return adopt(accept_fd(listener))


def accept_fd(listener: Socket) -> int:
    """As `accept`, for sockets of any kind: the connection's descriptor."""
    return _accept(listener)[0]


def adopt(fd: int) -> Socket:
    """The unix stream socket that is open as `fd`, which it owns from now on."""
    return Socket(_AF_UNIX, _SOCK_STREAM, 0, fd)


def adopt_packets(fd: int) -> Socket:
    """One end of a `packet_pair` that came from another process."""
    return Socket(_AF_UNIX, _SOCK_SEQPACKET, 0, fd)


def packet_pair() -> tuple[Socket, Socket]:
    """Two connected ends that keep messages apart (SOCK_SEQPACKET)."""
    return _socket.socketpair(_AF_UNIX, _SOCK_SEQPACKET)


def stream_pair() -> tuple[Socket, Socket]:
    """Two connected ends of a stream."""
    return _socket.socketpair(_AF_UNIX, _SOCK_STREAM)


def peer_credentials(sock: Socket) -> tuple[int, int, int]:
    """Process, user and group id of who connected. Source: unix(7) SO_PEERCRED."""
    return struct.unpack("3i", sock.getsockopt(_SOL_SOCKET, _socket.SO_PEERCRED, 12))


def frame(payload: bytes) -> bytes:
    """`payload` with its length before it."""
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameTooLarge(f"{len(payload)} bytes in one message")
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def send_with_fds(sock: Socket, data: bytes | memoryview, fds: Sequence[int] = ()) -> int:
    """One sendmsg of `data`, descriptors on its first byte; how many bytes went out."""
    if not fds:
        return sock.send(data, _NO_SIGNAL)
    rights = struct.pack(f"{len(fds)}i", *fds)
    return sock.sendmsg([data], [(_SOL_SOCKET, _SCM_RIGHTS, rights)], _NO_SIGNAL)


def receive_with_fds(
    sock: Socket, limit_bytes: int = _RECEIVE_BYTES, *, wait: bool = True
) -> tuple[bytes, list[int]]:
    """One recvmsg: bytes (empty at end of file) and the descriptors that came along, close-on-exec.

    Raises:
        BlockingIOError: there is nothing, and not `wait`.
        OSError: EMFILE when descriptors were cut off (MSG_CTRUNC); what arrived is closed.
    Source: unix(7) SCM_RIGHTS.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        limit_bytes, _RIGHTS_SPACE, _MSG_CMSG_CLOEXEC if wait else _NO_WAIT
    )
    if not ancillary and not flags & _MSG_CTRUNC:
        return data, []
    fds: list[int] = []
    for level, kind, value in ancillary:
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
            fds += struct.unpack_from(f"{len(value) // 4}i", value)
    if flags & _MSG_CTRUNC:
        close_all(fds)
        raise OSError(errno.EMFILE, "descriptors were cut off", "recvmsg")
    return data, fds


def close_all(fds: Sequence[int]) -> None:
    """Close received descriptors that nobody took."""
    for fd in fds:
        os.close(fd)


class FrameDecoder:
    """Cuts a stream of bytes and descriptors into frames; the descriptors go with the frame they came with.

    Descriptors received while a frame is incomplete belong to that frame: senders never mix two frames that
    carry descriptors into one call.
    """

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._fds: list[int] = []

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take what one receive brought."""
        self._buffer += data
        self._fds += fds

    def next(self) -> tuple[bytes, list[int]] | None:
        """The next whole frame and its descriptors; None when there is none yet.

        Raises:
            FrameTooLarge: the announced length is over the limit.
        """
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if length > self._limit_bytes:
            raise FrameTooLarge(f"{length} bytes announced, at most {self._limit_bytes} are taken")
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[LENGTH_BYTES:end])
        del self._buffer[:end]
        fds, self._fds = self._fds, []
        return payload, fds

    def rest(self) -> bytes:
        """Bytes after the last frame, for a connection that changes its protocol; they leave the decoder."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def close(self) -> None:
        """Close descriptors of a frame that never became whole."""
        fds, self._fds = self._fds, []
        close_all(fds)


def send_frame(sock: Socket, payload: bytes, fds: Sequence[int] = ()) -> None:
    """Send one whole frame on a blocking socket.

    Raises:
        OSError, TimeoutError: the peer is gone or does not read.
    """
    view = memoryview(frame(payload))
    sent = send_with_fds(sock, view, fds)
    while sent < len(view):
        sent += sock.send(view[sent:])


def receive_frame(sock: Socket, limit_bytes: int = MAX_FRAME_BYTES) -> tuple[bytes, list[int]] | None:
    """Receive one whole frame from a blocking socket, and no byte after it; None at end of file.

    Raises:
        OSError, TimeoutError, FrameTooLarge: as their names say.
    """
    held: list[int] = []
    try:
        head = _receive_exactly(sock, LENGTH_BYTES, held)
        if head is None:
            return None
        length = int.from_bytes(head, "big")
        if length > limit_bytes:
            raise FrameTooLarge(f"{length} bytes announced, at most {limit_bytes} are taken")
        payload = _receive_exactly(sock, length, held)
        if payload is None:
            return None
        taken, held = held, []
        return payload, taken
    finally:
        close_all(held)


def _receive_exactly(sock: Socket, count: int, held: list[int]) -> bytes | None:
    parts: list[bytes] = []
    while count > 0:
        data, fds = receive_with_fds(sock, min(count, _RECEIVE_BYTES))
        held += fds
        if not data:
            return None
        parts.append(data)
        count -= len(data)
    return b"".join(parts)
