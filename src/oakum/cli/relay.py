# SPDX-License-Identifier: Apache-2.0
"""Bytes between the user's standard streams and a container: nothing lost, nothing held, slow readers waited for.

One poll loop, no threads. A stream is read only while what came before has been written, so a slow reader slows
the container down instead of filling memory. `StreamRelay` speaks the shim's frames; `ExecRelay` a terminal's
master side or pipes. What a signal means is decided by the caller.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from oakum.cli import terminal
from oakum.cli.signals import SignalQueue
from oakum.cli.terminal import DetachKeys
from oakum.errors import OakumError, Unavailable, from_dict
from oakum.model.exits import ExitRecord
from oakum.shim import frames

if TYPE_CHECKING:
    from oakum.shim.client import Exec

_CHUNK: Final = 65536
# A pipe that poll calls writable takes this much without blocking (pipe(7), PIPE_BUF).
_SAFE_WRITE: Final = 4096
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL
# How long output may trail the end of an exec whose children keep its pipes open.
_DRAIN_S: Final = 0.25


class Outcome(NamedTuple):
    """How a relay ended: with the process (`record`), by the detach keys, or because our reader went away."""

    record: ExitRecord | None = None
    detached: bool = False
    broken_pipe: bool = False


class Outlet:
    """A descriptor of ours that is written when poll says so; a closed reader breaks it for good."""

    __slots__ = ("_buffer", "_safe_write", "broken", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._buffer = bytearray()
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            mode = 0
        self.broken = mode == 0  # closed from the start (`>&-`): what would go there is dropped
        # a file never blocks for long
        self._safe_write = _CHUNK if stat.S_ISREG(mode) else _SAFE_WRITE

    def __len__(self) -> int:
        return len(self._buffer)

    def add(self, data: bytes) -> None:
        """Take bytes to write."""
        if not self.broken:
            self._buffer += data

    def flush_some(self) -> None:
        """Write as much as cannot block."""
        try:
            written = os.write(self.fd, memoryview(self._buffer)[: self._safe_write])
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF):
                raise
            self.broken = True
            self._buffer.clear()
            return
        del self._buffer[:written]

    def flush(self) -> None:
        """Write all of it, waiting for the reader."""
        poller = select.poll()
        poller.register(self.fd, select.POLLOUT)
        while self._buffer:
            poller.poll()
            self.flush_some()


class LocalStreams(NamedTuple):
    """The descriptors of this process that take part; -1 leaves one out. `detach` watches what is typed."""

    stdin_fd: int = 0
    stdout_fd: int = 1
    stderr_fd: int = 2
    terminal_fd: int = -1
    detach: DetachKeys | None = None


class _Relay(ABC):
    """What both relays share: our side of it."""

    def __init__(self, local: LocalStreams, signals: SignalQueue, on_signal: Callable[[int], bool]) -> None:
        self._local = local
        self._signals = signals
        self._on_signal = on_signal
        self._stdin_open = local.stdin_fd >= 0
        self._inward = bytearray()
        self._stdout = Outlet(local.stdout_fd) if local.stdout_fd >= 0 else None
        self._stderr = Outlet(local.stderr_fd) if local.stderr_fd >= 0 else None
        self._outcome: Outcome | None = None

    # what a relay of one kind knows

    @abstractmethod
    def _peer_interest(self) -> list[tuple[int, int]]:
        """The other side's descriptors and the poll events wanted of them."""

    @abstractmethod
    def _peer_ready(self, fd: int, events: int) -> None:
        """Handle what poll told of a descriptor of the other side."""

    @abstractmethod
    def _queue_input(self, data: bytes) -> None:
        """Take what was typed."""

    @abstractmethod
    def _queue_end_of_input(self) -> None:
        """Take note that no more will be typed."""

    @abstractmethod
    def _resize(self, rows: int, columns: int) -> None:
        """Give the other side's terminal a size."""

    def _timeout_s(self) -> float | None:
        return None

    @abstractmethod
    def _tick(self) -> None:
        """Look at what no descriptor tells."""

    # the loop

    def run(self) -> Outcome:
        """Relay until the process has ended and all its output is written, or something else ends it."""
        self._signals.passing_on = True
        try:
            self._loop()
        finally:
            self._signals.passing_on = False
        for outlet in (self._stdout, self._stderr):
            if outlet is not None:
                outlet.flush()
        assert self._outcome is not None
        return self._outcome

    def _loop(self) -> None:
        self._take_signals()
        while self._outcome is None:
            poller = select.poll()
            interest = dict[int, int]()
            for fd, events in self._interest():
                interest[fd] = interest.get(fd, 0) | events
            for fd, events in interest.items():
                poller.register(fd, events)
            timeout_s = self._timeout_s()
            for fd, events in poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000):
                self._ready(fd, events)
                if self._outcome is not None:
                    return
            self._tick()

    def _backlog(self) -> int:
        return sum(len(outlet) for outlet in (self._stdout, self._stderr) if outlet is not None)

    def _interest(self) -> list[tuple[int, int]]:
        wanted = [(self._signals.fileno(), select.POLLIN), *self._peer_interest()]
        for outlet in (self._stdout, self._stderr):
            if outlet is not None and not outlet.broken:
                # no events: only a reader that has gone away is told
                wanted.append((outlet.fd, select.POLLOUT if len(outlet) else 0))
        if self._stdin_open and not self._inward:
            wanted.append((self._local.stdin_fd, select.POLLIN))
        return wanted

    def _ready(self, fd: int, events: int) -> None:
        if fd == self._signals.fileno():
            self._take_signals()
            return
        ours = False
        for outlet in (self._stdout, self._stderr):
            if outlet is not None and outlet.fd == fd and not outlet.broken:
                ours = True
                if len(outlet) and events & (select.POLLOUT | select.POLLERR):
                    outlet.flush_some()
                elif events & _GONE:
                    outlet.broken = True
        if fd == self._local.stdin_fd and self._stdin_open:
            ours = True
            if events & (select.POLLIN | _GONE) and not self._inward:
                self._read_stdin()
        if not ours:
            self._peer_ready(fd, events)
        elif (
            self._stdout is not None
            and self._stdout.fd == fd
            and self._stdout.broken
            and self._outcome is None
        ):
            self._outcome = Outcome(broken_pipe=True)

    def _read_stdin(self) -> None:
        try:
            data = os.read(self._local.stdin_fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ECONNRESET, errno.EBADF):
                raise
            data = b""  # the terminal has hung up, or there never was a standard input
        if not data:
            self._stdin_open = False
            self._queue_end_of_input()
            return
        if self._local.detach is not None:
            data, detached = self._local.detach.feed(data)
            if detached:
                self._outcome = Outcome(detached=True)
                return
        if data:
            self._queue_input(data)

    def _take_signals(self) -> None:
        import signal  # already loaded by the queue

        for number in self._signals.take():
            if number == signal.SIGWINCH:
                if self._local.terminal_fd >= 0:
                    self._resize(*terminal.size(self._local.terminal_fd))
            elif not self._on_signal(number):
                self._outcome = Outcome(detached=True)


class StreamRelay(_Relay):
    """Between our streams and an attached container: the shim's frames on `sock`."""

    def __init__(
        self,
        sock: socket.socket,
        local: LocalStreams,
        signals: SignalQueue,
        on_signal: Callable[[int], bool],
    ) -> None:
        super().__init__(local, signals, on_signal)
        self._sock = sock
        self._sock.setblocking(False)
        self._decoder = frames.Decoder()
        if local.terminal_fd >= 0:
            self._resize(*terminal.size(local.terminal_fd))

    def _peer_interest(self) -> list[tuple[int, int]]:
        events = (0 if self._backlog() else select.POLLIN) | (select.POLLOUT if self._inward else 0)
        return [(self._sock.fileno(), events)] if events else []

    def _peer_ready(self, fd: int, events: int) -> None:  # noqa: ARG002 - there is only one
        if events & select.POLLOUT and self._inward:
            try:
                sent = self._sock.send(self._inward)
            except BlockingIOError:
                sent = 0
            except OSError:
                # the other side has ended; how is told by what can still be read
                self._stdin_open, sent = False, len(self._inward)
            del self._inward[:sent]
        if events & (select.POLLIN | _GONE) and not self._backlog():
            self._read_frames()

    def _read_frames(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            raise Unavailable("follow container", "", "its shim closed the stream without an exit record")
        for kind, payload in self._decoder.feed(data):
            if kind == frames.STDOUT and self._stdout is not None:
                self._stdout.add(payload)
            elif kind == frames.STDERR and self._stderr is not None:
                self._stderr.add(payload)
            elif kind == frames.EXIT:
                self._outcome = Outcome(record=ExitRecord.from_dict(_json(payload)))
            elif kind == frames.ERROR:
                raise from_dict(_json(payload))

    def _tick(self) -> None:
        return

    def _queue_input(self, data: bytes) -> None:
        self._inward += frames.encode(frames.STDIN, data)

    def _queue_end_of_input(self) -> None:
        self._inward += frames.encode(frames.CLOSE_STDIN)

    def _resize(self, rows: int, columns: int) -> None:
        if rows and columns:
            payload = f'{{"rows":{rows},"columns":{columns}}}'.encode()
            self._inward += frames.encode(frames.RESIZE, payload)


def _json(payload: bytes) -> dict[str, Any]:
    import json  # the shim's client has it loaded already

    value = json.loads(payload)
    if not isinstance(value, dict):
        raise OakumError("read exit record", "", "not an object")
    return value  # pyright: ignore[reportUnknownVariableType] - JSON


class ExecRelay(_Relay):
    """Between our streams and an exec: a terminal's master side (`console_fd`) or pipes.

    `pipes` are our ends of (stdin, stdout, stderr), borrowed, -1 where there is none; `close_stdin` closes ours.
    """

    def __init__(
        self,
        process: Exec,
        pipes: tuple[int, int, int],
        local: LocalStreams,
        signals: SignalQueue,
        on_signal: Callable[[int], bool],
        *,
        close_stdin: Callable[[], None],
    ) -> None:
        super().__init__(local, signals, on_signal)
        self._process = process
        self._console = process.console_fd.fileno() if process.console_fd is not None else -1
        self._in_fd, out_fd, err_fd = pipes if self._console < 0 else (self._console, self._console, -1)
        self._sources = {
            fd: outlet for fd, outlet in ((out_fd, self._stdout), (err_fd, self._stderr)) if fd >= 0
        }
        self._close_stdin = close_stdin
        self._end_of_input = False
        self._deadline = 0.0
        try:
            self._pid_fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            self._pid_fd = -1
            self._deadline = time.monotonic() + _DRAIN_S
        if local.terminal_fd >= 0:
            self._resize(*terminal.size(local.terminal_fd))

    def close(self) -> None:
        """Close what this relay opened."""
        if self._pid_fd >= 0:
            os.close(self._pid_fd)
            self._pid_fd = -1

    def _peer_interest(self) -> list[tuple[int, int]]:
        wanted: list[tuple[int, int]] = []
        if self._pid_fd >= 0 and not self._deadline:
            wanted.append((self._pid_fd, select.POLLIN))
        if not self._backlog():
            wanted += [(fd, select.POLLIN) for fd in self._sources]
        if self._inward and self._in_fd >= 0:
            wanted.append((self._in_fd, select.POLLOUT))
        return wanted

    def _timeout_s(self) -> float | None:
        if not self._deadline or self._backlog():
            return None
        return self._deadline - time.monotonic()

    def _tick(self) -> None:
        over = self._deadline and not self._backlog() and time.monotonic() >= self._deadline
        if not self._sources or over:
            self._outcome = Outcome(record=self._process.wait())

    def _peer_ready(self, fd: int, events: int) -> None:
        if fd == self._pid_fd:
            self._deadline = time.monotonic() + _DRAIN_S
            return
        if fd == self._in_fd and events & (select.POLLOUT | select.POLLERR) and self._inward:
            self._write_input()
        if fd in self._sources and events & (select.POLLIN | _GONE):
            self._read_output(fd)

    def _write_input(self) -> None:
        try:
            written = os.write(self._in_fd, memoryview(self._inward)[:_SAFE_WRITE])
        except BlockingIOError:
            return
        except OSError:
            # the process reads no more; it goes on without input
            self._stdin_open, written = False, len(self._inward)
        del self._inward[:written]
        if not self._inward and self._end_of_input:
            self._finish_input()

    def _finish_input(self) -> None:
        if self._console < 0:
            self._close_stdin()
            self._in_fd = -1

    def _read_output(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # no process has the terminal open any more (pty(7))
        if not data:
            del self._sources[fd]
            return
        if self._deadline:
            self._deadline = time.monotonic() + _DRAIN_S
        outlet = self._sources[fd]
        if outlet is not None:
            outlet.add(data)

    def _queue_input(self, data: bytes) -> None:
        if self._in_fd >= 0:
            self._inward += data

    def _queue_end_of_input(self) -> None:
        self._end_of_input = True
        if not self._inward:
            self._finish_input()

    def _resize(self, rows: int, columns: int) -> None:
        if self._console >= 0 and rows and columns:
            import termios

            termios.tcsetwinsize(self._console, (rows, columns))
