# SPDX-License-Identifier: Apache-2.0
"""The container's log in the CRI form: one line `TIME STREAM F|P TEXT` for each line or piece of output.

Owns the encoding (pure) and the file: what cannot be written (ENOSPC, EDQUOT, EIO) is counted and reported,
never waited for, and the next line that can be written begins on a line of its own.
Spec: CRI v1, ContainerConfig.log_path; the kubelet's log reader defines the tags F (full) and P (partial).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from oakum.errors import InvalidArgument, SystemFailure

MAX_PIECE_BYTES: Final = 16 << 10
_TAGS: Final = {"stdout": (b" stdout F ", b" stdout P "), "stderr": (b" stderr F ", b" stderr P ")}
_MODE: Final = 0o640


def timestamp(now_ns: int) -> bytes:
    """`now_ns` since the epoch as RFC 3339 in UTC with nine digits of fraction."""
    seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
    t = time.gmtime(seconds)
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%09dZ" % (t[0], t[1], t[2], t[3], t[4], t[5], nanoseconds)


class LineEncoder:
    """Cuts one stream into lines, and lines over 16 KiB into pieces; keeps a line that has not ended yet."""

    def __init__(self, stream: str, pending: bytes = b"") -> None:
        self._full, self._partial = _TAGS[stream]
        self._pending = pending

    @property
    def pending(self) -> bytes:
        """The beginning of a line that has not ended yet."""
        return self._pending

    def feed(self, data: bytes, stamp: bytes) -> bytes:
        """Take output; what goes into the log now, whole log lines."""
        cut = data.rfind(b"\n")
        if cut < 0:
            out = b""
            self._pending += data
        else:
            out = self._lines(self._pending + data[:cut], stamp)
            self._pending = data[cut + 1 :]
        if len(self._pending) > MAX_PIECE_BYTES:
            pieces, self._pending = self._split(self._pending, stamp)
            out += pieces
        return out

    def flush(self, stamp: bytes) -> bytes:
        """The unfinished line, at the end of the stream; P, because no newline ended it."""
        pending, self._pending = self._pending, b""
        return stamp + self._partial + pending + b"\n" if pending else b""

    def _lines(self, text: bytes, stamp: bytes) -> bytes:
        head = stamp + self._full
        if len(text) <= MAX_PIECE_BYTES:
            return head + text.replace(b"\n", b"\n" + head) + b"\n"
        lines = text.split(b"\n")
        for number, line in enumerate(lines):
            if len(line) > MAX_PIECE_BYTES:
                pieces, rest = self._split(line, stamp)
                lines[number] = pieces + head + rest
            else:
                lines[number] = head + line
        return b"\n".join(lines) + b"\n"

    def _split(self, line: bytes, stamp: bytes) -> tuple[bytes, bytes]:
        """All pieces but the last, and the last, which is never empty."""
        head = stamp + self._partial
        whole = (len(line) - 1) // MAX_PIECE_BYTES * MAX_PIECE_BYTES
        pieces = [head + line[at : at + MAX_PIECE_BYTES] + b"\n" for at in range(0, whole, MAX_PIECE_BYTES)]
        return b"".join(pieces), line[whole:]


class LogFile:
    """The open log. `error` says why the last write failed ("" when it did not), `lost_bytes` what is missing."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        self._path = path
        self._fd = open_log(path) if fd is None else fd
        self._torn = b""  # the rest of a line of which the beginning is in the file
        self.error = ""
        self.lost_bytes = 0

    def pack(self, place_of: Callable[[int], int]) -> tuple[Any, ...]:
        """What `unpack` needs, plain values; `place_of` names a descriptor."""
        place = place_of(self._fd) if self._fd >= 0 else -1
        return self._path, place, self._torn, self.error, self.lost_bytes

    @classmethod
    def unpack(cls, packed: tuple[Any, ...], fds: Sequence[int]) -> LogFile:
        """The file that was packed, in another process, which has the descriptors by place; takes its own over."""
        place: int
        path, place, torn, error, lost_bytes = packed
        file = cls(path, fds[place] if place >= 0 else -1)
        file._torn = torn
        file.error = error
        file.lost_bytes = lost_bytes
        return file

    def write(self, lines: bytes) -> None:
        """Append whole log lines; never raises, see `error`."""
        view = memoryview(self._torn + lines)
        torn_bytes = len(self._torn)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except OSError as failure:
            self.error = f"{failure.strerror} ({os.path.basename(self._path)})"
            self._keep_line_whole(bytes(view), done, torn_bytes)
            return
        self._torn = b""
        self.error = ""

    def reopen(self) -> None:
        """Open the path anew; on failure the old file stays in use.

        Raises:
            SystemFailure: the path cannot be opened.
        """
        fd = open_log(self._path)
        old, self._fd = self._fd, fd
        if self._torn:
            # The beginning of this line is in the old file: it ends there or nowhere.
            try:
                os.write(old, self._torn)
            except OSError:
                self.lost_bytes += len(self._torn)
            self._torn = b""
        os.close(old)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _keep_line_whole(self, text: bytes, done: int, torn_bytes: int) -> None:
        at_line_start = done > 0 and text[done - 1 : done] == b"\n"
        if at_line_start or (done == 0 and not torn_bytes):
            self._torn = b""
            self.lost_bytes += len(text) - done
        else:
            end = text.index(b"\n", done) + 1
            self._torn = text[done:end]
            self.lost_bytes += len(text) - end


def open_log(path: str) -> int:
    """A descriptor that appends to a log, made if it is not there. Raises SystemFailure, InvalidArgument."""
    # O_NONBLOCK and the check of the type: the directory may be visible to a container, which could have put a
    # FIFO or a link there.
    flags = (
        os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    )
    try:
        fd = os.open(path, flags, _MODE)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "open log", path) from failure
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidArgument("open log", path, "not a regular file")
    return fd


class Log:
    """Both streams of a container into one file; `path` "" keeps nothing."""

    def __init__(self, path: str, file: LogFile | None = None, pending: Sequence[bytes] = (b"", b"")) -> None:
        self._file = LogFile(path) if path else file
        self._encoders = {
            "stdout": LineEncoder("stdout", pending[0]),
            "stderr": LineEncoder("stderr", pending[1]),
        }

    def pack(self, place_of: Callable[[int], int]) -> Any:
        """As `LogFile.pack`."""
        file = self._file.pack(place_of) if self._file is not None else None
        return file, [encoder.pending for encoder in self._encoders.values()]

    @classmethod
    def unpack(cls, packed: Any, fds: Sequence[int]) -> Log:
        """As `LogFile.unpack`."""
        file, pending = packed
        return cls("", LogFile.unpack(file, fds) if file is not None else None, pending)

    @property
    def error(self) -> str:
        """Why the log could last not be written; "" when it could."""
        return self._file.error if self._file else ""

    @property
    def lost_bytes(self) -> int:
        """How many bytes of log are missing."""
        return self._file.lost_bytes if self._file else 0

    def write(self, stream: str, data: bytes) -> None:
        """Take output of "stdout" or "stderr"."""
        if self._file is not None:
            lines = self._encoders[stream].feed(data, timestamp(time.time_ns()))
            if lines:
                self._file.write(lines)

    def finish(self) -> None:
        """Write unfinished lines and close."""
        if self._file is None:
            return
        stamp = timestamp(time.time_ns())
        rest = b"".join(encoder.flush(stamp) for encoder in self._encoders.values())
        if rest:
            self._file.write(rest)
        self._file.close()

    def reopen(self) -> None:
        """Open the path anew. Raises SystemFailure; the old file stays in use then."""
        if self._file is not None:
            self._file.reopen()
