# SPDX-License-Identifier: Apache-2.0
"""How far a container's log has been written: a place in Docker's file and the place in ours where its output begins.

The lines are a pure function of Docker's records. So whatever a killed writer had written behind the last recorded
position is found by the size of our file, and left out when the same lines are made again: no line is lost or doubled.
One write of a fixed size to a file that stays: kill -9 finds it before or after. Spec: write(2).
"""

from __future__ import annotations

import os
import zlib
from typing import Final, NamedTuple

from oakum.errors import SystemFailure

_VERSION: Final = "1"
_SIZE_BYTES: Final = 256


class Position(NamedTuple):
    """`in_*` is Docker's file, known by its inode and its first record's time; `out_*` the log.

    `out_offset` is where the output of what lies behind `in_offset` begins; below 0, when a part of it went to the
    file before.
    """

    in_device: int = 0
    in_inode: int = 0
    in_first_ns: int = 0
    in_offset: int = 0
    out_device: int = 0
    out_inode: int = 0
    out_offset: int = 0


class PositionFile:
    """The place of one container's position on disk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def read(self) -> Position | None:
        """The position; None when none was written, or a power cut spoilt it. Raises SystemFailure."""
        try:
            with open(self._path, "rb") as file:
                return parse(file.read(_SIZE_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SystemFailure.from_os_error(error, "read log position", self._path) from error

    def write(self, position: Position) -> None:
        """Record a position. Raises SystemFailure."""
        try:
            if self._fd < 0:
                os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._fd, encode(position), 0)
        except OSError as error:
            raise SystemFailure.from_os_error(error, "write log position", self._path) from error

    def close(self) -> None:
        """Close the file, which stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> None:
        """Remove the file; one that is gone is fine. Raises SystemFailure."""
        self.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SystemFailure.from_os_error(error, "remove log position", self._path) from error


def encode(position: Position) -> bytes:
    """As it is written: words, a checksum, blanks."""
    words = " ".join((_VERSION, *map(str, position))).encode()
    return (words + b" %08x" % zlib.crc32(words)).ljust(_SIZE_BYTES - 1) + b"\n"


def parse(data: bytes) -> Position | None:
    """The position that `encode` wrote; None when it is damaged."""
    words, _, checksum = data.rstrip().rpartition(b" ")
    version, *numbers = words.decode("ascii", "replace").split(" ")
    if (
        b"%08x" % zlib.crc32(words) != checksum
        or version != _VERSION
        or len(numbers) != len(Position._fields)
    ):
        return None
    return Position(*map(int, numbers))
