# SPDX-License-Identifier: Apache-2.0
"""The client's side of an exec or attach in the event loop: its input queued, output sent at the pace it takes it.

Reading never waits for the command (up to a bound above any window that we give): what the client says about
its windows must be heard while the command reads nothing, or both would wait for each other for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from oakum.streaming.command import CommandStreams, Gone, Input, InputEnded, Resized
from oakum.streaming.link import ClientGone, Link
from oakum.streaming.queues import ByteQueue, Signal
from oakum.streaming.requests import Outcome
from oakum.streaming.spdy.frames import BadFrame

OPEN_STREAMS_S: Final = 30.0
_INPUT_LIMIT_BYTES: Final = 4 << 20


class Conversation:
    """One client of an exec or attach."""

    def __init__(self, link: Link, streams: CommandStreams) -> None:
        self._link = link
        self._streams = streams
        self._heard = Signal()
        self._drained = Signal()
        self._input = ByteQueue()
        self._sizes: deque[Resized] = deque(maxlen=1)
        self.behind_bytes = 0
        """How much output may wait for the client's window before `output` waits."""
        self.on_resize: Callable[[Resized], None] | None = None

    @property
    def size(self) -> Resized | None:
        """The client's window as last heard."""
        return self._sizes[0] if self._sizes else None

    async def open(self) -> bool:
        """Wait until the client has opened its streams; False when it does not."""
        try:
            async with asyncio.timeout(OPEN_STREAMS_S):
                await self._flush()
                while not self._streams.ready:
                    if not await self._hear():
                        return False
        except TimeoutError:
            return False
        return True

    async def listen(self) -> None:
        """Take what the client says until it leaves."""
        while await self._hear():
            while self._input.size_bytes > _INPUT_LIMIT_BYTES:
                await self._drained.wait()

    async def _hear(self) -> bool:
        data = await self._link.read()
        if not data:
            return False
        try:
            events = self._streams.receive(data)
        except BadFrame as error:
            raise ClientGone(str(error)) from error
        finally:
            self._heard.fire()
        for event in events:
            match event:
                case Input(received):
                    self._input.put(received)
                case InputEnded():
                    self._input.end()
                case Resized():
                    self._sizes.append(event)
                    if self.on_resize is not None:
                        self.on_resize(event)
                case Gone():
                    return False
        await self._flush()
        return True

    async def input(self) -> bytes:
        """The next input; empty when the client has no more."""
        data = await self._input.get()
        self._drained.fire()
        return data

    async def taken(self, count: int) -> None:
        """The command has so much of its input."""
        self._streams.consumed(count)
        await self._flush()

    async def output(self, stream: int, data: bytes) -> None:
        """Send output; returns when the client is not (too far) behind."""
        self._streams.output(stream, data)
        await self._flush()
        while self._streams.waiting_bytes() > self.behind_bytes:
            await self._heard.wait()

    async def finish(self, outcome: Outcome) -> None:
        """Send how it ended; returns when all is out."""
        self._streams.finish(outcome)
        await self._flush()
        while self._streams.waiting_bytes():
            await self._heard.wait()

    def cut_short(self, reason: str) -> None:
        """Say why it ends now, without waiting for anything."""
        self._streams.finish(Outcome(error=reason))
        self._link.put(self._streams.take())

    async def _flush(self) -> None:
        await self._link.send(self._streams.take())


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first has ended; the others are cancelled. What any of them raised is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for result in ended:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
