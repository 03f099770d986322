# SPDX-License-Identifier: Apache-2.0
"""Where blocking backend calls run: two bounded pools of threads, so that waiting never holds up asking.

`quick` is for calls that only look (lists, states, statistics). `patient` is for calls that change something
or wait for somebody else: a retry that joins its first try, an exec, a container that takes its time to stop,
a registry. A hundred of those leave the quick ones untouched.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

QUICK_THREADS = 16
PATIENT_THREADS = 128


class Calls:
    """The two pools. Threads are started when first needed."""

    def __init__(self, *, quick_threads: int = QUICK_THREADS, patient_threads: int = PATIENT_THREADS) -> None:
        self._quick = ThreadPoolExecutor(quick_threads, "quick")
        self._patient = ThreadPoolExecutor(patient_threads, "patient")
        self._changed = threading.Condition()
        self._running = 0
        self._closed = False
        self._endless: set[Callable[[], None]] = set()

    @contextmanager
    def endless(self, end: Callable[[], None]) -> Generator[None]:
        """Around a call that goes on for as long as its client likes: `end` is called when the server ends."""
        self._endless.add(end)
        try:
            yield
        finally:
            self._endless.discard(end)

    def end_streams(self) -> None:
        """End the calls that would go on; from the event loop."""
        for end in tuple(self._endless):
            end()

    @property
    def running(self) -> int:
        """How many calls have begun and not ended, those whose client has gone included."""
        return self._running

    async def quick(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `call`, which answers soon."""
        return await self._run(self._quick, partial(call, *args, **kwargs))

    async def patient(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `call`, which may wait for long."""
        return await self._run(self._patient, partial(call, *args, **kwargs))

    async def _run(self, pool: Executor, call: Callable[[], R]) -> R:
        # the thread logs in the context of the RPC that it works for
        context = contextvars.copy_context()
        future = pool.submit(context.run, call)
        self._count(1)
        future.add_done_callback(lambda _: self._count(-1))
        return await asyncio.wrap_future(future)

    def _count(self, change: int) -> None:
        with self._changed:
            self._running += change
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until no call runs, `timeout_s` is over or the pools are closed; whether no call runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running or self._closed, timeout_s)
            return not self._running

    def close(self) -> None:
        """Take no more calls; those running go on, those waiting are dropped."""
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._patient.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
