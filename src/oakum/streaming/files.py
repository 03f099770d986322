# SPDX-License-Identifier: Apache-2.0
"""Waiting for descriptors in the event loop: pipes, terminals, pidfds. All are borrowed and non-blocking."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

BLOCK_BYTES: Final = 128 << 10
_PEER_GONE: Final = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


async def readable(fd: int) -> None:
    """Wait until a read would not block, or a pidfd's process has ended."""
    loop = asyncio.get_running_loop()
    await _wait(fd, loop.add_reader, loop.remove_reader)


async def writable(fd: int) -> None:
    """Wait until a write would not block."""
    loop = asyncio.get_running_loop()
    await _wait(fd, loop.add_writer, loop.remove_writer)


async def _wait(fd: int, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
    woken = asyncio.get_running_loop().create_future()
    add(fd, _wake, woken)
    try:
        await woken
    finally:
        remove(fd)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def read_now(fd: int) -> bytes | None:
    """What is there; None when that is nothing yet, empty at the end. A terminal without a slave, and a reset connection, have ended."""
    try:
        return os.read(fd, BLOCK_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in (errno.EIO, errno.ECONNRESET):
            return b""
        raise


async def write_all(fd: int, data: bytes) -> bool:
    """Write everything; False when nobody will ever read it."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await writable(fd)
        except OSError as error:
            if error.errno in _PEER_GONE:
                return False
            raise
    return True
