# SPDX-License-Identifier: Apache-2.0
"""Watching directories for what appears in them. Owns the system calls and the wire format, no policy.

Source: inotify(7), inotify_init1(2), inotify_add_watch(2), inotify_rm_watch(2).
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple, Self

from oakum.linux.libc import CText, bind, c_int, u32

IN_MODIFY: Final = 0x2
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x1000000
_IN_NONBLOCK: Final = os.O_NONBLOCK
_IN_CLOEXEC: Final = os.O_CLOEXEC

# int wd; uint32_t mask, cookie, len; then the name, padded with NUL to len.
_HEADER: Final = struct.Struct("=iIII")
_READ_BYTES: Final = 64 * 1024

_init = bind("inotify_init1", c_int)
_add_watch = bind("inotify_add_watch", c_int, CText, u32)
_rm_watch = bind("inotify_rm_watch", c_int, c_int)


class Notice(NamedTuple):
    """Something happened in the directory watched as `watch` (-1: the kernel's queue overflowed)."""

    watch: int
    mask: int
    name: str


class Inotify:
    """One queue of notices; not thread-safe."""

    def __init__(self) -> None:
        self._fd = _init(_IN_NONBLOCK | _IN_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor, readable when there are notices."""
        return self._fd

    def add(self, path: str, mask: int) -> int:
        """Watch a directory; the number of the watch. Raises OSError (ENOSPC: fs.inotify.max_user_watches)."""
        return _add_watch(self._fd, path, mask | IN_ONLYDIR, target=path)

    def remove(self, watch: int) -> None:
        """Watch it no longer; succeeds when the directory is gone."""
        try:
            _rm_watch(self._fd, watch)
        except OSError as error:
            if error.errno != 22:  # EINVAL: the kernel forgot it with the directory
                raise

    def read(self) -> list[Notice]:
        """All notices there are, without waiting."""
        found: list[Notice] = []
        while True:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return found
            found.extend(parse(data))

    def close(self) -> None:
        """Forget all watches."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def parse(data: bytes) -> list[Notice]:
    """The notices in what was read from the kernel."""
    found: list[Notice] = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        watch, mask, _cookie, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        name = data[offset : offset + length].rstrip(b"\0")
        offset += length
        found.append(Notice(watch, mask, os.fsdecode(name)))
    return found
