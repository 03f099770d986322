# SPDX-License-Identifier: Apache-2.0
"""A port-forward in WebSocket channels: one connection a port, made at once; channel 2n is its data, 2n+1 its errors.

The first message of each channel is the port, two bytes with the lower first. There is no half-close here: the end
of a connection's output is the end of the connection. Spec: Kubernetes sub-protocols v4 and v4.base64.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from oakum.errors import OakumError
from oakum.streaming.channels import ChannelData, Channels
from oakum.streaming.dial import Dialer
from oakum.streaming.link import Link
from oakum.streaming.negotiate import Protocol
from oakum.streaming.queues import ByteQueue, Signal
from oakum.streaming.websocket import PeerClosed

_BLOCK_BYTES: Final = 128 << 10
_INPUT_LIMIT_BYTES: Final = 4 << 20


class ChannelForward:
    """One client with one connection for each port."""

    def __init__(self, link: Link, protocol: Protocol, ports: tuple[int, ...], dialer: Dialer) -> None:
        self._link = link
        self._channels = Channels(base64_form=protocol.base64)
        self._ports = ports
        self._dialer = dialer
        self._inputs = [ByteQueue() for _ in ports]
        self._drained = Signal()

    async def serve(self) -> None:
        """Forward until every connection has ended, or the client leaves. Raises ClientGone."""
        for number, port in enumerate(self._ports):
            for channel in (2 * number, 2 * number + 1):
                self._channels.send(channel, port.to_bytes(2, "little"))
        await self._flush()
        connections = [asyncio.ensure_future(self._connect(n, port)) for n, port in enumerate(self._ports)]
        listening = asyncio.ensure_future(self._listen())
        every = asyncio.ensure_future(asyncio.wait(connections)) if connections else listening
        try:
            await asyncio.wait((every, listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (every, listening, *connections):
                task.cancel()
            await asyncio.gather(every, listening, *connections, return_exceptions=True)
        self._channels.close()
        await self._flush()

    async def _listen(self) -> None:
        while data := await self._link.read():
            for event in self._channels.receive(data):
                if isinstance(event, PeerClosed):
                    return
                if isinstance(event, ChannelData):
                    self._take(event)
            await self._flush()
            while sum(queue.size_bytes for queue in self._inputs) > _INPUT_LIMIT_BYTES:
                await self._drained.wait()

    def _take(self, event: ChannelData) -> None:
        number, is_error = divmod(event.channel, 2)
        if number < len(self._inputs) and not is_error:
            self._inputs[number].put(event.data)

    async def _connect(self, number: int, port: int) -> None:
        try:
            with await self._dialer.connect(port) as sock:
                feeding = asyncio.ensure_future(self._feed(number, sock))
                try:
                    await self._drain(number, sock)
                finally:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)
        except (OakumError, OSError) as error:
            self._channels.send(2 * number + 1, str(error).encode())
            await self._flush()

    async def _feed(self, number: int, sock: socket.socket) -> None:
        loop, heard = asyncio.get_running_loop(), True
        while data := await self._inputs[number].get():
            self._drained.fire()
            try:
                if heard:
                    await loop.sock_sendall(sock, data)
            except OSError:  # it takes no more, but may still be talking
                heard = False

    async def _drain(self, number: int, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, _BLOCK_BYTES):
            self._channels.send(2 * number, data)
            await self._flush()

    async def _flush(self) -> None:
        await self._link.send(self._channels.take())
