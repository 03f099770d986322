# SPDX-License-Identifier: Apache-2.0
"""Bytes between two tasks of one event loop. Owns the waiting, not the bound: who puts asks for `room` first."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteQueue:
    """Blocks of bytes in order, with an end."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._ended = False
        self._changed = asyncio.Event()
        self.size_bytes = 0

    def put(self, data: bytes) -> None:
        """Add a block; dropped after the end."""
        if data and not self._ended:
            self._blocks.append(data)
            self.size_bytes += len(data)
            self._changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def get(self) -> bytes:
        """The next block; empty at the end. For one reader."""
        while not self._blocks:
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = self._blocks.popleft()
        self.size_bytes -= len(data)
        return data


class Signal:
    """Something may have changed: wakes everyone who waits now."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake them."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next `fire`."""
        await self._event.wait()
