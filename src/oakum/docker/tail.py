# SPDX-License-Identifier: Apache-2.0
"""One container's output on its way from Docker's files to its log: read, make lines, append, record the position.

Owns both ends and the order of the steps. What cannot be written (a full disk) waits in Docker's file and is tried
again: nothing is thrown away. Not thread-safe but for `lock`, which every caller holds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Final, NamedTuple

from oakum.docker.position import Position, PositionFile
from oakum.docker.records import Encoder
from oakum.docker.source import FileKey, Source
from oakum.errors import SystemFailure
from oakum.shim.logs import open_log

log = logging.getLogger(__name__)

# After so many blocks others get their turn.
_BLOCKS: Final = 8


class _Out(NamedTuple):
    fd: int
    device: int
    inode: int


class Tail:
    """From one container's output to its log at `log_path`."""

    def __init__(self, container_id: str, directory: str, log_path: str, position_path: str) -> None:
        self.id = container_id
        self.directory = directory
        self.log_path = log_path
        self.lock = threading.Lock()
        self.blocked = ""
        """Why nothing can be written now; "" when it can."""
        self._positions = PositionFile(position_path)
        self._source = Source(directory)
        self._encoder = Encoder()
        self._out: _Out | None = None
        self._out_base = 0  # where in the log the output of what lies at the source's offset begins
        self._skip = 0  # bytes of that which are in the log already
        self._last = Position()
        self._over = False

    # what callers want

    def prepare(self) -> None:
        """Have the log there, empty if it is new. Raises SystemFailure, InvalidArgument."""
        if self._out is None and not self._ready():
            self._last = self._positions.read() or Position()
            self._open_out(self._last)
            self._record()

    def pump(self) -> bool:
        """Bring what is there over; whether there may be more. Raises SystemFailure."""
        if self._over or not self._ready():
            return False
        return all(self._step() for _ in range(_BLOCKS))

    def drain(self) -> None:
        """Bring all that is there over, as far as the disk takes it. Raises SystemFailure."""
        while self.pump():
            pass

    def reopen(self) -> None:
        """Go on in a new file at the same path. Raises SystemFailure, InvalidArgument; the old file stays in use then."""
        self.prepare()
        assert self._out is not None
        if self._at_path() and os.path.exists(self.log_path):
            return
        self._move_on()
        self._record()

    def release(self) -> None:
        """Close what is open; the next `pump` opens it again."""
        self._source.close()
        self._positions.close()
        out, self._out = self._out, None
        if out is not None:
            os.close(out.fd)

    def forget(self) -> None:
        """Bring over what is left, and end for good. Raises SystemFailure."""
        if not self._over:
            try:
                if self._source.is_open:
                    self.drain()
                if self.blocked:
                    self._say_lost(self.blocked)
            finally:
                self._over = True
                self.release()
                self._positions.remove()

    # opening

    def _ready(self) -> bool:
        if self._source.is_open and self._out is not None:
            return True
        self.release()
        position = self._last = self._positions.read() or Position()
        opened = self._source.open(FileKey(*position[:3]) if position.in_inode else None, position.in_offset)
        if opened is None:
            return False
        if opened is False:
            self._say_lost("they were not read before Docker removed them")
        self._open_out(position)
        if opened is False:
            # what the log has beyond the position was made of what is gone
            self._out_base += self._skip
            self._skip = 0
        # before the first byte is written: a kill must find where it began
        self._record()
        return True

    def _open_out(self, position: Position) -> None:
        before = self._file_before(position)
        if before is not None:
            fd, self._out_base = before, position.out_offset
        else:
            fd = open_log(self.log_path)
            self._out_base = os.fstat(fd).st_size
        facts = os.fstat(fd)
        self._out = _Out(fd, facts.st_dev, facts.st_ino)
        self._skip = max(0, facts.st_size - self._out_base)
        if before is not None and not self._at_path():
            self._move_on()

    def _file_before(self, position: Position) -> int | None:
        """The log that was written to last, also under the name that a rotation gave it."""
        if not position.out_inode:
            return None
        directory, name = os.path.split(self.log_path)
        try:
            names = [entry for entry in os.listdir(directory) if entry.startswith(name)]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SystemFailure.from_os_error(error, "open log", directory) from error
        for found in sorted(names):
            path = f"{directory}/{found}"
            with contextlib.suppress(FileNotFoundError):
                facts = os.lstat(path)
                if (facts.st_dev, facts.st_ino) == (position.out_device, position.out_inode):
                    return open_log(path)
        return None

    def _at_path(self) -> bool:
        """Whether the log is where it belongs, or nothing is there: a rotation that is not over takes it back."""
        assert self._out is not None
        try:
            facts = os.lstat(self.log_path)
        except FileNotFoundError:
            return True
        return (facts.st_dev, facts.st_ino) == (self._out.device, self._out.inode)

    def _move_on(self) -> None:
        """Go on in the file that is at the path, or is made there."""
        assert self._out is not None
        old, fd = self._out, open_log(self.log_path)
        try:
            self._end_line(old.fd)
            facts = os.fstat(fd)
        except BaseException:  # nobody has the new one; the error goes on upwards
            os.close(fd)
            raise
        self._out = _Out(fd, facts.st_dev, facts.st_ino)
        self._out_base = facts.st_size - self._skip
        os.close(old.fd)

    # the way of the bytes

    def _step(self) -> bool:
        data = self._source.read()
        encoded = self._encoder.encode(data)
        if encoded.damaged:
            self._say_lost(f"{encoded.damaged} bytes of Docker's log are damaged")
        if encoded.consumed:
            return self._write(encoded.lines, encoded.consumed)
        if not self._source.superseded:
            return False
        if len(self._source.read()) != len(data):
            return True  # written between our reading and its end
        if data:
            self._say_lost(f"{len(data)} bytes of Docker's log are damaged")
        known = self._source.next_file()
        if known is None:
            return False
        if known is False:
            self._say_lost("Docker removed files before they were read")
        # nothing of the new file is in the log yet
        self._out_base += self._skip
        self._skip = 0
        self._record()
        return True

    def _write(self, lines: bytes, consumed: int) -> bool:
        assert self._out is not None
        view = memoryview(lines)
        here = min(self._skip, len(view))
        try:
            while here < len(view):
                here += os.write(self._out.fd, view[here:])
        except OSError as error:
            self._skip = here
            if not self.blocked:
                facts = {"id": self.id, "log": self.log_path, "error": error.strerror}
                log.warning("cannot write a log, its lines wait", extra={"fields": facts})
            self.blocked = error.strerror or str(error)
            self._record()
            return False
        self.blocked = ""
        self._source.offset += consumed
        self._out_base += len(lines)
        self._skip = max(0, self._skip - len(lines))
        self._record()
        return True

    def _end_line(self, fd: int) -> None:
        """Write the rest of a line of which the beginning is in a file that is left now."""
        if not self._skip or not self._source.is_open:
            return
        lines = self._encoder.encode(self._source.read()).lines
        if 0 < self._skip < len(lines) and lines[self._skip - 1 : self._skip] != b"\n":
            end = lines.index(b"\n", self._skip) + 1
            try:
                while self._skip < end:
                    self._skip += os.write(fd, lines[self._skip : end])
            except OSError:
                # as full as it was: the new file has the line whole
                self._skip = lines.rfind(b"\n", 0, self._skip) + 1

    def _record(self) -> None:
        assert self._out is not None
        last = self._last
        if self._source.is_open:
            last = Position(*self._source.key(), in_offset=self._source.offset)
        self._last = last._replace(
            out_device=self._out.device, out_inode=self._out.inode, out_offset=self._out_base
        )
        self._positions.write(self._last)

    def _say_lost(self, why: str) -> None:
        log.warning(
            "lines of a log are missing",
            extra={"fields": {"id": self.id, "log": self.log_path, "error": why}},
        )
