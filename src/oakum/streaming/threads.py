# SPDX-License-Identifier: Apache-2.0
"""Blocking calls from the event loop, none of whose results is ever lost, not even when the loop has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


async def in_thread(call: Callable[[], _T], *, unwanted: Callable[[_T], object] | None = None) -> _T:
    """What `call` returns, run in a thread of the loop's pool.

    A call cannot be cancelled: when its waiter is, `unwanted` is told the result that nobody takes.
    """
    handover = _Handover(call, unwanted)
    future = asyncio.get_running_loop().run_in_executor(None, handover.run)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        handover.abandon()
        future.add_done_callback(_look_at)
        raise
    return handover.take()


def _look_at(done: asyncio.Future[None]) -> None:
    # asking for the error tells asyncio that somebody has seen it
    if not done.cancelled():
        done.exception()


class _Handover(Generic[_T]):
    """A result between the thread that makes it and the waiter, who may have left: the thread may outlive the loop."""

    def __init__(self, call: Callable[[], _T], unwanted: Callable[[_T], object] | None) -> None:
        self._call = call
        self._unwanted = unwanted
        self._guard = threading.Lock()
        self._made: list[_T] = []
        self._abandoned = False

    def run(self) -> None:
        made = self._call()
        with self._guard:
            self._made.append(made)
        self._drop_if_abandoned()

    def abandon(self) -> None:
        with self._guard:
            self._abandoned = True
        self._drop_if_abandoned()

    def take(self) -> _T:
        return self._made.pop()

    def _drop_if_abandoned(self) -> None:
        with self._guard:
            dropped = self._made if self._abandoned else []
            if dropped:
                self._made = []
        if self._unwanted is not None:
            for made in dropped:
                self._unwanted(made)
