# SPDX-License-Identifier: Apache-2.0
"""Blocking calls from the event loop, none of whose results is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(call: Callable[[], _T], *, unwanted: Callable[[_T], object] | None = None) -> _T:
    """What `call` returns, run in a thread of the loop's pool.

    A call cannot be cancelled: when its waiter is, `unwanted` is told the result that nobody takes.
    """
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: _drop(done, unwanted))
        raise


def _drop(done: asyncio.Future[_T], unwanted: Callable[[_T], object] | None) -> None:
    # asking for the error also tells asyncio that somebody has seen it
    if not done.cancelled() and done.exception() is None and unwanted is not None:
        unwanted(done.result())
