# SPDX-License-Identifier: Apache-2.0
"""Pairs of sockets that keep messages apart (SOCK_SEQPACKET), and messages on them that carry descriptors.

By the C library, for who must not load a library for it: the module below `socket` takes longer to load than all messages
between a parent and its child. `sockets` has the rest.
"""

from __future__ import annotations

import errno
import os

from oakum.linux.fd import Fd
from oakum.linux.foreign import addressof, c_char, c_char_p
from oakum.linux.libc import Struct, bind, byref, c_int, c_size_t, c_void_p, sizeof, u32
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

MAX_FDS: Final = 64
# Source: linux/socket.h; the same on all architectures that we have system calls for
_AF_UNIX: Final = 1
_SOCK_SEQPACKET: Final = 5
_SOCK_CLOEXEC: Final = 0o2000000
_SOL_SOCKET: Final = 1
_SCM_RIGHTS: Final = 1
_MSG_PEEK: Final = 0x2
_MSG_CTRUNC: Final = 0x8
_MSG_TRUNC: Final = 0x20
_MSG_DONTWAIT: Final = 0x40
_MSG_NOSIGNAL: Final = 0x4000
_MSG_CMSG_CLOEXEC: Final = 0x40000000
_SMALL_BYTES: Final = 4096


class _Message(Struct):
    # Source: recvmsg(2) struct msghdr, cmsg(3) struct cmsghdr: the header, its one piece of data, and one control message
    _fields_ = [
        ("name", c_void_p),
        ("name_bytes", u32),
        ("pieces", c_void_p),
        ("piece_count", c_size_t),
        ("control", c_void_p),
        ("control_bytes", c_size_t),
        ("flags", c_int),
        ("data", c_void_p),
        ("data_bytes", c_size_t),
        ("rights_bytes", c_size_t),
        ("rights_level", c_int),
        ("rights_kind", c_int),
        ("numbers", c_int * MAX_FDS),
    ]


_DATA_OFFSET: Final = _Message.data.offset
_RIGHTS_OFFSET: Final = _Message.rights_bytes.offset
_NUMBERS_OFFSET: Final = _Message.numbers.offset
_RIGHTS_HEAD_BYTES: Final = _NUMBERS_OFFSET - _RIGHTS_OFFSET
_Small = c_char * _SMALL_BYTES

_socketpair = bind("socketpair", c_int, c_int, c_int, c_void_p)
_send = bind("send", c_int, c_char_p, c_size_t, c_int)
_recv = bind("recv", c_int, c_void_p, c_size_t, c_int)
_sendmsg = bind("sendmsg", c_int, c_void_p, c_int)
_recvmsg = bind("recvmsg", c_int, c_void_p, c_int)


def pair() -> tuple[Fd, Fd]:
    """Two connected ends, close-on-exec. Source: socketpair(2). Raises OSError."""
    numbers = (c_int * 2)()
    _socketpair(_AF_UNIX, _SOCK_SEQPACKET | _SOCK_CLOEXEC, 0, byref(numbers), target="packets")
    return Fd(numbers[0]), Fd(numbers[1])


def send(end: int, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message, at most `MAX_FDS` descriptors with it. Raises OSError (BrokenPipeError: nobody is there).

    Source: send(2), sendmsg(2).
    """
    if not fds:
        _again(_send, end, data, len(data), _MSG_NOSIGNAL)
        return
    message = _message(addressof(kept := _copy(data)), len(data))
    message.rights_bytes = _RIGHTS_HEAD_BYTES + 4 * len(fds)
    message.control_bytes = message.rights_bytes
    message.rights_level, message.rights_kind = _SOL_SOCKET, _SCM_RIGHTS
    message.numbers[: len(fds)] = fds
    _again(_sendmsg, end, byref(message), _MSG_NOSIGNAL)
    del kept  # which had to be there until now


def receive(end: int, limit_bytes: int, *, wait: bool = True) -> tuple[bytes, list[int]]:
    """The next message (empty at end of file) and the descriptors that came along, close-on-exec.

    Raises:
        BlockingIOError: there is none, and not `wait`.
        OSError: EMSGSIZE for one that is longer, EMFILE when descriptors were cut off; what arrived is closed.
    Source: recv(2), recvmsg(2), unix(7) SCM_RIGHTS.
    """
    flags = _MSG_CMSG_CLOEXEC if wait else _MSG_CMSG_CLOEXEC | _MSG_DONTWAIT
    length = _again(_recv, end, None, 0, flags | _MSG_PEEK | _MSG_TRUNC)
    if length > limit_bytes:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE), f"{length} bytes")
    room = (_Small if length <= _SMALL_BYTES else c_char * length)()
    message = _message(addressof(room), sizeof(room))
    message.control_bytes = sizeof(_Message) - _RIGHTS_OFFSET
    length = _again(_recvmsg, end, byref(message), flags)
    fds: list[int] = []
    if (
        message.control_bytes > _RIGHTS_HEAD_BYTES
        and (message.rights_level, message.rights_kind) == (_SOL_SOCKET, _SCM_RIGHTS)
    ):  # fmt: skip
        fds = message.numbers[: (message.rights_bytes - _RIGHTS_HEAD_BYTES) // 4]
    if message.flags & _MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, "descriptors were cut off", "recvmsg")
    return room.raw[:length], fds


def _message(address: int, length: int) -> _Message:
    message = _Message(data=address, data_bytes=length, piece_count=1)
    start = addressof(message)
    message.pieces, message.control = start + _DATA_OFFSET, start + _RIGHTS_OFFSET
    return message


def _copy(data: bytes) -> Any:
    return (c_char * len(data)).from_buffer_copy(data)


def _again(call: Callable[..., int], *arguments: Any) -> int:
    """A call as often as signals interrupt it; their handlers run in between."""
    while True:
        try:
            return call(*arguments, target="packets")
        except InterruptedError:
            continue
