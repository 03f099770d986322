# SPDX-License-Identifier: Apache-2.0
"""One client's connection: reads, writes that wait for the client, the time it has been idle, and a gentle end."""

from __future__ import annotations

import asyncio
from typing import Final

READ_BYTES: Final = 256 << 10
_LINGER_S: Final = 10.0
_CLOSE_S: Final = 2.0


class ClientGone(Exception):
    """The connection broke, or has been silent for too long."""


class Link:
    """A connection after its accept."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._idle_timeout_s = idle_timeout_s
        self._unread = b""
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()

    def unread(self, data: bytes) -> None:
        """Have the next `read` begin with `data`."""
        self._unread += data

    async def read(self) -> bytes:
        """Some bytes; empty when the client has left."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError:  # reset, timed out, or broken encryption
            return b""
        self._last = self._loop.time()
        return data

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait while the client is too far behind. Raises ClientGone."""
        if not data:
            return
        self._last = self._loop.time()
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise ClientGone(str(error)) from error
        self._last = self._loop.time()

    def put(self, data: bytes) -> None:
        """Send bytes and do not wait, for last words; nothing happens on a broken connection."""
        if data and not self._writer.is_closing():
            self._writer.write(data)

    def allow_behind(self, limit_bytes: int) -> None:
        """How far behind the client may be before `send` waits."""
        self._writer.transport.set_write_buffer_limits(high=limit_bytes)

    async def until_idle(self) -> None:
        """Return when nothing has moved in either direction for the idle time; never without such a time."""
        while True:
            left = self._last + self._idle_timeout_s - self._loop.time() if self._idle_timeout_s else 3600.0
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def linger(self, limit_s: float = _LINGER_S) -> None:
        """Say that no more comes, and let the client take all that was sent before the connection goes.

        Closing with input unread would make the kernel reset the connection, and drop what is on its way out.
        """
        try:
            async with asyncio.timeout(limit_s):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                else:  # TLS cannot half-close: its goodbye ends both directions
                    await self._writer.drain()
                    self._writer.close()
                while await self._reader.read(READ_BYTES):
                    pass
        except (OSError, TimeoutError):
            pass  # it has left, or will not: what can be done is done

    async def close(self) -> None:
        """Close the connection, after what is on its way out if the client takes it soon."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:  # it was broken
            pass
