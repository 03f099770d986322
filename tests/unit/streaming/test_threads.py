# SPDX-License-Identifier: Apache-2.0
"""Calls in threads: every result is taken by its waiter, or dropped by whoever is told of what nobody wants."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from oakum.streaming.threads import in_thread
from tests.support.patience import eventually


def test_the_waiter_gets_the_result_or_the_error() -> None:
    dropped: list[int] = []

    def fail() -> int:
        raise ValueError("no")

    async def ask() -> int:
        with pytest.raises(ValueError, match="no"):
            await in_thread(fail, unwanted=dropped.append)
        return await in_thread(lambda: 7, unwanted=dropped.append)

    assert asyncio.run(ask()) == 7
    assert dropped == []


@pytest.mark.parametrize("loop_ends_first", [False, True])
def test_what_a_cancelled_waiter_would_have_got_is_dropped(loop_ends_first: bool) -> None:
    go_on, begun = threading.Event(), threading.Event()
    dropped: list[int] = []

    def slow() -> int:
        begun.set()
        go_on.wait(60)
        return 7

    async def ask() -> None:
        waiting = asyncio.ensure_future(in_thread(slow, unwanted=dropped.append))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        waiting.cancel()
        if not loop_ends_first:
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    loop = asyncio.new_event_loop()
    pool = ThreadPoolExecutor(2)
    loop.set_default_executor(pool)
    loop.run_until_complete(ask())
    pool.shutdown(wait=False)
    loop.close()
    go_on.set()
    eventually(lambda: dropped == [7])
