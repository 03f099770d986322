# SPDX-License-Identifier: Apache-2.0
"""Reading a container's log: lines, the last so many, and following over rotations. Owns no writing (the shim does).

A rotation renames the file and has the shim open the path anew. A follower therefore reads a renamed file to
its end, and a little longer, before it goes on with the new one; it never jumps while lines may still come.

Spec: CRI log format: `RFC3339Nano stream F|P text`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from oakum.errors import NotFound, SystemFailure

_POLL_S = 0.05
_BLOCK = 64 * 1024
# The shim opens the new file when it is told to; until then it writes to the renamed one.
_ROTATION_GRACE_S = 2.0
# Lines are at most 16 KiB of text and a short head; a damaged file must not fill our memory.
_LINE_MAX = 1024 * 1024


class LogLine(NamedTuple):
    """One entry. `partial` says that its line goes on in the next entry of the same stream; `data` has no newline."""

    timestamp_ns: int
    stream: str
    partial: bool
    data: bytes


def parse_line(line: bytes) -> LogLine | None:
    """An entry without its newline; None when it is not one (a torn write, another program's line)."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    stamp = parse_time(parts[0])
    if stamp is None:
        return None
    tags = parts[2].split(b":")
    return LogLine(stamp, parts[1].decode(), tags[0] == b"P", parts[3])


def parse_time(text: bytes) -> int | None:
    """Nanoseconds since the epoch of an RFC 3339 time; None when it is none."""
    # time.strptime costs some 10 us and cannot do fractions; this is on the path of every line.
    try:
        if text[4:5] + text[7:8] + text[10:11] + text[13:14] + text[16:17] != b"--T::":
            return None
        numbers = [text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19]]
        if not all(number.isdigit() for number in numbers):
            return None
        year, month, day, hour, minute, second = (int(number) for number in numbers)
        if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
            return None
        seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
        rest = text[19:]
        nanoseconds = 0
        if rest[:1] == b".":
            digits = rest[1:].split(b"Z")[0].split(b"+")[0].split(b"-")[0]
            if not digits.isdigit() or len(digits) > 9:
                return None
            nanoseconds = int(digits.ljust(9, b"0"))
            rest = rest[1 + len(digits) :]
        offset = _offset_s(rest)
        return None if offset is None else (seconds - offset) * 1_000_000_000 + nanoseconds
    except ValueError:
        return None


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970 to a date of the Gregorian calendar (the standard library's way loads 8 ms of modules)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _offset_s(zone: bytes) -> int | None:
    if zone == b"Z":
        return 0
    if len(zone) != 6 or zone[:1] not in (b"+", b"-") or zone[3:4] != b":":
        return None
    if not (zone[1:3].isdigit() and zone[4:6].isdigit()):
        return None
    seconds = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return seconds if zone[:1] == b"+" else -seconds


def tail_offset(file: BinaryIO, count: int) -> int:
    """Where the last `count` lines of a file begin; a torn last line counts as one."""
    end = file.seek(0, os.SEEK_END)
    if count <= 0:
        return end
    position, seen = end, 0
    while position > 0:
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        block = file.read(step)
        # The very last newline ends a line instead of beginning one.
        edge = len(block) - 1 if position + step == end else len(block)
        while (found := block.rfind(b"\n", 0, edge)) >= 0:
            seen += 1
            if seen == count:
                return position + found + 1
            edge = found
    return 0


class _Follower:
    """The file behind a path, and the one that took its place."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._pending = b""

    def open(self) -> bool:
        """Open the path if it is there."""
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the follower
        except FileNotFoundError:
            return False
        return True

    def skip_to_tail(self, count: int) -> None:
        """Begin with the last `count` lines."""
        if self._file is not None:
            self._file.seek(tail_offset(self._file, count))

    def lines(self) -> Iterator[bytes]:
        """The whole lines that are there now."""
        while self._file is not None and (block := self._file.read(_BLOCK)):
            *whole, self._pending = (self._pending + block).split(b"\n")
            yield from whole
            if len(self._pending) > _LINE_MAX:
                self._pending = b""

    def rotated(self) -> bool:
        """Whether the path now leads to another file than the one we read, or ours was cut."""
        if self._file is None:
            return os.path.exists(self._path)
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._file.fileno())
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)

    def successor_in_use(self) -> bool:
        """Whether the file now at the path has content: its writer has left the old one then."""
        try:
            return os.stat(self._path).st_size > 0
        except FileNotFoundError:
            return False

    def rewind_if_cut(self) -> None:
        """Start over in a file that was truncated in place (copytruncate)."""
        if self._file is not None and os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
            self._pending = b""

    def next_file(self) -> None:
        """Go on with the file that is at the path now."""
        self.close()
        self.open()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._pending = b""


def read_log(
    path: str,
    *,
    follow: bool,
    tail: int | None,
    since_ns: int,
    ended: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """The entries of a log. With `follow` until `ended` says so and all that was written is read.

    Raises:
        NotFound: there is no log (only without `follow`: a container that is about to start gets one).
        SystemFailure: it cannot be read.
    """
    follower = _Follower(path)
    try:
        if not follower.open() and not follow:
            raise NotFound(
                "read log", path, "no such file", hint="the container has written none, or was never started"
            )
        if tail is not None:
            follower.skip_to_tail(tail)
        yield from _selected(follower.lines(), since_ns)
        if follow:
            for line in _follow(follower, ended, pause):
                yield from _selected(iter((line,)), since_ns)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "read log", path) from error
    finally:
        follower.close()


def _selected(lines: Iterator[bytes], since_ns: int) -> Iterator[LogLine]:
    for line in lines:
        entry = parse_line(line)
        if entry is not None and entry.timestamp_ns >= since_ns:
            yield entry


def _follow(
    follower: _Follower, ended: Callable[[], bool], pause: Callable[[float], None]
) -> Iterator[bytes]:
    rotated_at: float | None = None
    while True:
        # Asked before reading: what was written before the end is then surely read.
        over = ended()
        follower.rewind_if_cut()
        quiet = True
        for line in follower.lines():
            quiet = False
            yield line
        if not quiet:
            continue
        if follower.rotated():
            now = time.monotonic()
            rotated_at = rotated_at or now
            if over or now - rotated_at >= _ROTATION_GRACE_S or follower.successor_in_use():
                # Once more: it may have been written to between our reading and its writer's leaving.
                yield from follower.lines()
                follower.next_file()
                rotated_at = None
                continue
        elif over:
            return
        pause(_POLL_S)
