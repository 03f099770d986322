# SPDX-License-Identifier: Apache-2.0
"""What open files are asked for besides reading and writing: locks, seals, device requests, and to say when they are ready.

By the C library where it is bound already: for a few calls, loading it takes less than loading `fcntl` and `select`.
Source: flock(2), fcntl(2), ioctl(2), poll(2).
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False  # `sealed` needs this before everything else
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LOCK_SHARED = 1
LOCK_EXCLUSIVE = 2
LOCK_NO_WAIT = 4
READABLE = 0x1
WRITABLE = 0x4
_ENTRY_BYTES = 8  # struct pollfd: int fd; short events, revents
_LONGEST_MS = (1 << 31) - 1

_bound: dict[str, Callable[..., int]] = {}


def flock(fd: int, operation: int) -> None:
    """Lock an open file; a signal does not end the wait. Raises OSError (BlockingIOError: not now, and LOCK_NO_WAIT)."""
    if "oakum.linux.libc" not in sys.modules:
        import fcntl

        fcntl.flock(fd, operation)
        return
    while True:
        try:
            _call("flock", fd, operation)
        except InterruptedError:
            continue
        return


def file_control(fd: int, command: int, argument: int = 0) -> int:
    """A command of fcntl(2) with a number. Raises OSError."""
    if "oakum.linux.libc" not in sys.modules:
        import fcntl

        return fcntl.fcntl(fd, command, argument)
    return _call("fcntl", fd, command, argument)


def device_control(fd: int, request: int, argument: int | bytes = 0) -> tuple[int, bytes]:
    """A request of ioctl(2) with a number or a structure: what it returned, and what the structure is then. Raises OSError."""
    from oakum.linux.foreign import buffer  # what only locks needs it not

    if isinstance(argument, int):
        return _call("ioctl", fd, request, argument), b""
    data = buffer(argument)
    return _call("ioctl", fd, request, data), data.raw


def wait_for(wanted: Mapping[int, int], timeout_ms: float | None = None) -> dict[int, int]:
    """Descriptors and what is ready of each: of what is wanted, and of errors. Empty when the time is over.

    A signal does not end it: its handler runs. Raises OSError.
    """
    from oakum.linux.foreign import buffer  # as above

    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    entries = buffer(
        b"".join(
            fd.to_bytes(4, sys.byteorder) + events.to_bytes(2, sys.byteorder) + b"\0\0"
            for fd, events in wanted.items()
        )
    )
    while True:
        left_ms = -1
        if deadline is not None:
            # Rounded up: who waits for a deadline would come back before it again and again.
            left_ms = min(max(0, int((deadline - time.monotonic()) * 1000) + 1), _LONGEST_MS)
        try:
            if not _call("poll", entries, len(wanted), left_ms):
                return {}
            break
        except InterruptedError:
            continue
    found = entries.raw
    places = range(_ENTRY_BYTES - 2, len(found), _ENTRY_BYTES)
    ready = (int.from_bytes(found[place : place + 2], sys.byteorder) for place in places)
    return {fd: events for fd, events in zip(wanted, ready, strict=True) if events}


def _call(name: str, *arguments: Any) -> int:
    if name not in _bound:
        from oakum.linux.libc import bind, c_int, c_long, c_ulong, c_void_p

        types = {
            "flock": (c_int, c_int),
            "fcntl": (c_int, c_int, c_long),
            "ioctl": (c_int, c_ulong, c_void_p),
            "poll": (c_void_p, c_ulong, c_int),
        }
        _bound[name] = bind(name, *types[name])
    return _bound[name](*arguments, target="descriptor")
