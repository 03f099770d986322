# SPDX-License-Identifier: Apache-2.0
"""An exec for a remote client: a command on pipes or a terminal, pumped until it has ended and all is said.

A client that leaves hangs up: the terminal closes (SIGHUP), or the pipes do; the command is not killed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

from oakum.errors import DeadlineExceeded, OakumError, SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.terminal import set_size
from oakum.model.exits import ExitRecord
from oakum.streaming.command import STDERR, STDOUT, Resized
from oakum.streaming.conversation import Conversation, first_of
from oakum.streaming.files import read_now, readable, write_all
from oakum.streaming.queues import Signal
from oakum.streaming.requests import ExecRequest, Outcome
from oakum.streaming.source import FarTerminal, RunningExec, StreamSource
from oakum.streaming.threads import in_thread

_PIPE_BYTES: Final = 256 << 10
_F_SETPIPE_SZ: Final = 1031
# How long a pipe may stay open after the command's own end, by a child that it left behind.
_DRAIN_S: Final = 1.0
_RECORD_S: Final = 30.0


class _Running(NamedTuple):
    """A started command with our ends of its streams; those that were not asked for are None."""

    started: RunningExec
    stdin: Fd | None
    outputs: tuple[tuple[int, Fd], ...]
    pidfd: Fd | None
    record: ExitRecord | None

    def close(self) -> None:
        for fd in (self.stdin, self.pidfd, *(fd for _, fd in self.outputs)):
            if fd is not None:
                fd.close()
        self.started.close()


async def serve_exec(conversation: Conversation, request: ExecRequest, source: StreamSource) -> None:
    """Run the command for this client, to its end or the client's."""
    await first_of(conversation.listen(), _Exec(conversation, request, source).run())


class _Exec:
    def __init__(self, conversation: Conversation, request: ExecRequest, source: StreamSource) -> None:
        self._conversation = conversation
        self._request = request
        self._source = source

    async def run(self) -> None:
        try:
            running = await in_thread(self._start, unwanted=_Running.close)
            try:
                outcome = await self._pump(running)
            finally:
                running.close()
        except OakumError as error:
            outcome = Outcome(error=str(error))
        await self._conversation.finish(outcome)

    def _start(self) -> _Running:
        with ExitStack() as kept:
            running = self._start_on_terminal() if self._request.wanted.tty else self._start_on_pipes(kept)
            kept.callback(running.close)
            for _, fd in running.outputs:
                os.set_blocking(fd.fileno(), False)
            if running.stdin is not None:
                os.set_blocking(running.stdin.fileno(), False)
            running = _watched(running)
            kept.pop_all()
            return running

    def _start_on_terminal(self) -> _Running:
        size = self._conversation.size or Resized(0, 0)
        started = self._source.exec_start(
            self._request.container_id, self._request.argv, tty=True, rows=size.rows, columns=size.columns
        )
        if started.console_fd is None:
            raise SystemFailure("exec", self._request.container_id[:12], "it came without its terminal")
        console = Fd(started.console_fd.steal())
        typed = Fd(fcntl.fcntl(console.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))
        return _Running(started, typed, ((STDOUT, console),), None, None)

    def _start_on_pipes(self, kept: ExitStack) -> _Running:
        wanted = self._request.wanted
        with ExitStack() as theirs:

            def pipe(*, ours_is_reader: bool) -> tuple[int, Fd]:
                reader, writer = (Fd(fd) for fd in os.pipe2(os.O_CLOEXEC))
                ours, other = (reader, writer) if ours_is_reader else (writer, reader)
                kept.callback(ours.close)
                theirs.callback(other.close)
                _widen(ours.fileno())
                return other.fileno(), ours

            null = theirs.enter_context(Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)))
            stdin, writer = pipe(ours_is_reader=False) if wanted.stdin else (null.fileno(), None)
            outputs: list[tuple[int, Fd]] = []
            numbers = [stdin]
            for stream, asked in ((STDOUT, wanted.stdout), (STDERR, wanted.stderr)):
                number, reader = pipe(ours_is_reader=True) if asked else (null.fileno(), None)
                numbers.append(number)
                if reader is not None:
                    outputs.append((stream, reader))
            stdio = (numbers[0], numbers[1], numbers[2])
            started = self._source.exec_start(self._request.container_id, self._request.argv, stdio=stdio)
            return _Running(started, writer, tuple(outputs), None, None)

    async def _pump(self, running: _Running) -> Outcome:
        pumps = [_Pump(self._conversation, stream, fd.fileno()) for stream, fd in running.outputs]
        feeding = asyncio.ensure_future(self._feed(running))
        pumping = [asyncio.ensure_future(pump.run()) for pump in pumps]
        sizes: asyncio.Queue[Resized] = asyncio.Queue()
        sizing = asyncio.ensure_future(_tell_sizes(running.started, sizes))
        if self._request.wanted.tty:
            console_fd = running.outputs[0][1].fileno()

            far = running.started if isinstance(running.started, FarTerminal) else None

            def resize(size: Resized) -> None:
                if far is not None:
                    sizes.put_nowait(size)
                    return
                try:
                    set_size(console_fd, size.rows, size.columns)
                except OSError:  # hung up: nobody sees its size any more
                    pass

            self._conversation.on_resize = resize
            if self._conversation.size is not None:
                resize(self._conversation.size)
        try:
            record = await _ended(running)
            if pumping:
                await asyncio.wait(pumping, timeout=_DRAIN_S)
            for pump in pumps:
                pump.come_to_an_end()
            await asyncio.gather(*pumping)
        finally:
            self._conversation.on_resize = None
            for task in (feeding, sizing, *pumping):
                task.cancel()
            await asyncio.gather(feeding, sizing, *pumping, return_exceptions=True)
        return Outcome(exit_code=record.exit_code)

    async def _feed(self, running: _Running) -> None:
        """Give the command its input; what it does not take any more is thrown away."""
        heard = running.stdin is not None
        while data := await self._conversation.input():
            if heard and running.stdin is not None:
                heard = await write_all(running.stdin.fileno(), data)
            await self._conversation.taken(len(data))
        if running.stdin is not None and not self._request.wanted.tty:
            running.stdin.close()


async def _tell_sizes(started: RunningExec, sizes: asyncio.Queue[Resized]) -> None:
    """Set the sizes of a terminal that is not this machine's, one after the other."""
    while isinstance(started, FarTerminal):
        size = await sizes.get()
        await in_thread(partial(started.resize, size.rows, size.columns))


def _widen(fd: int) -> None:
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:  # the user's share of pipe memory is used up: it stays as it is
        pass


def _watched(running: _Running) -> _Running:
    """The same with a pidfd, or with the record if it has ended already."""
    try:
        pidfd = Fd(os.pidfd_open(running.started.pid))
    except ProcessLookupError:
        return running
    try:
        # It still runs after the pidfd was opened: so the pidfd is its own and not that of a successor to its number.
        record = running.started.wait(0)
    except DeadlineExceeded:
        return running._replace(pidfd=pidfd)
    except BaseException:
        pidfd.close()
        raise
    pidfd.close()
    return running._replace(record=record)


async def _ended(running: _Running) -> ExitRecord:
    """Wait for the command's end. Raises OakumError when its record cannot be had."""
    if running.record is not None:
        return running.record
    if running.pidfd is not None:
        await readable(running.pidfd.fileno())
    return await in_thread(lambda: running.started.wait(_RECORD_S))


class _Pump:
    """One output of the command on its way to the client."""

    def __init__(self, conversation: Conversation, stream: int, fd: int) -> None:
        self._conversation = conversation
        self._stream = stream
        self._fd = fd
        self._ending = False
        self._left_bytes = _PIPE_BYTES
        self._nudge = Signal()

    async def run(self) -> None:
        while not self._ending or self._left_bytes > 0:
            data = read_now(self._fd)
            if data is None:
                if self._ending:
                    return
                await first_of(readable(self._fd), self._nudge.wait())
                continue
            if not data:
                return
            if self._ending:
                self._left_bytes -= len(data)
            await self._conversation.output(self._stream, data)

    def come_to_an_end(self) -> None:
        """Take what is in the pipe now, and do not wait for more."""
        self._ending = True
        self._nudge.fire()
