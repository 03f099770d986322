# SPDX-License-Identifier: Apache-2.0
"""GetContainerEvents: all that happens, in order, until the client leaves.

A client that reads too slowly gets the events it has not read up to a bound, then the end of the stream with
the reason: it knows that it missed something and lists anew. Nothing is ever dropped without that.
"""

# ruff: noqa: N802 - the method is named as the RPC is

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.events import write_event
from oakum.api.cri.rpc.base import Context, RuntimeRpcs
from oakum.backend.status import ContainerEvent
from oakum.errors import OakumError, ResourceExhausted, Unavailable

QUEUE_EVENTS = 4096
"""Events that wait for one slow reader; a kubelet with 110 pods has some 700 in its busiest minute."""


class Backlog:
    """Between the thread that tells of events and one stream. All methods but `offer` belong to the loop."""

    def __init__(self, limit: int = QUEUE_EVENTS) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._waiting: deque[ContainerEvent] = deque()
        self._end: OakumError | None = None
        self._changed = asyncio.Event()

    def offer(self, told: ContainerEvent | OakumError) -> None:
        """Take an event, or the error that ends them; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, told)
        except RuntimeError:
            pass  # the loop has ended, and the stream with it

    def _take(self, told: ContainerEvent | OakumError) -> None:
        if self._end is None:
            if isinstance(told, OakumError):
                self._end = told
            elif len(self._waiting) >= self._limit:
                self._end = ResourceExhausted(
                    "stream events",
                    told.id[:12],
                    f"the client did not read {self._limit} events, this and later ones would be lost",
                    hint="list pods and containers, and subscribe again",
                )
            else:
                self._waiting.append(told)
        self._changed.set()

    def end(self) -> None:
        """End the stream: the server stops."""
        self._take(Unavailable("stream events", "", "the server is stopping", hint="subscribe again"))

    async def next(self) -> ContainerEvent:
        """The next event. Raises what ended them, after all that came before it."""
        while not self._waiting:
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()


class EventRpcs(RuntimeRpcs):
    """What happens to containers and sandboxes."""

    async def GetContainerEvents(
        self, _request: pb.GetEventsRequest, context: Context
    ) -> AsyncIterator[pb.ContainerEventResponse]:
        """Events from now on; the header of the answer says that it is watched. Spec: CRI v1 GetContainerEvents."""
        backlog = Backlog()
        watching = asyncio.ensure_future(self.calls.quick(self.runtime.watch_events, backlog.offer))
        try:
            leave = await asyncio.shield(watching)
        except asyncio.CancelledError:
            watching.add_done_callback(_leave)  # it left meanwhile, and the call goes on
            raise
        try:
            with self.calls.endless(backlog.end):
                await context.send_initial_metadata(())
                while True:
                    yield write_event(await backlog.next())
        finally:
            leave()


def _leave(watching: asyncio.Future[Callable[[], None]]) -> None:
    if not watching.cancelled() and watching.exception() is None:
        watching.result()()
