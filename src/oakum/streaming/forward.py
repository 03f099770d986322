# SPDX-License-Identifier: Apache-2.0
"""A port-forward over SPDY: many connections into one pod, each a pair of streams (data, error) of one request id.

A connection that cannot be made, or breaks, resets its own data stream and says nothing on its error stream:
the usual client takes any word there as the end of the whole forward. What concerns the pod itself (it is gone, it
is not ready) is said there, for then the forward is at its end. Spec: Kubernetes `portforward.k8s.io`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from oakum.errors import OakumError, Unavailable
from oakum.streaming.carrier import Carrier
from oakum.streaming.dial import Dialer
from oakum.streaming.link import ClientGone, Link
from oakum.streaming.queues import ByteQueue, Signal
from oakum.streaming.spdy import session as spdy
from oakum.streaming.spdy.frames import BadFrame

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 512
_PAIR_S: Final = 30.0
_BLOCK_BYTES: Final = 128 << 10
# above the window that we give, so that a client that keeps it is always heard; the others stop here
_INPUT_LIMIT_BYTES: Final = 16 << 20


class _Pair:
    """One forwarded connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.data_id = 0
        self.error_id = 0
        self.input = ByteQueue()
        self.complete = asyncio.Event()
        self.task: asyncio.Future[None] | None = None


class Forward:
    """One client with all its forwarded connections."""

    def __init__(self, link: Link, carrier: Carrier, dialer: Dialer) -> None:
        self._link = link
        self._carrier = carrier
        self._dialer = dialer
        self._session = spdy.Session(max_streams=2 * MAX_CONNECTIONS)
        self._pairs: dict[str, _Pair] = {}
        self._by_data: dict[int, _Pair] = {}
        self._heard = Signal()
        self._drained = Signal()
        self._queued_bytes = 0

    async def serve(self) -> None:
        """Forward until the client leaves. Raises ClientGone when it breaks off."""
        await self._flush()
        try:
            while data := await self._link.read():
                carried = self._carrier.unpack(data)
                if carried is None:
                    break
                await self._take(carried)
                await self._flush()
                while self._queued_bytes > _INPUT_LIMIT_BYTES:
                    await self._drained.wait()
        finally:
            tasks = [pair.task for pair in self._pairs.values() if pair.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.send(self._carrier.pack(b"") + self._carrier.goodbye())

    async def _take(self, data: bytes) -> None:
        try:
            events = self._session.receive(data)
        except BadFrame as error:
            self._session.go_away()
            await self._flush()
            raise ClientGone(str(error)) from error
        finally:
            self._heard.fire()
        for event in events:
            match event:
                case spdy.Opened():
                    self._opened(event)
                case spdy.Received(stream_id, received):
                    self._received(stream_id, received)
                case spdy.Ended(stream_id):
                    if stream_id in self._by_data:
                        self._by_data[stream_id].input.end()
                case spdy.WasReset(stream_id, _):
                    pair = self._by_data.get(stream_id)
                    if pair is not None and pair.task is not None:
                        pair.task.cancel()
                case spdy.Accepted():
                    pass

    def _opened(self, event: spdy.Opened) -> None:
        kind, port = event.header("streamtype"), event.header("port")
        if kind not in ("data", "error") or not _is_port(port):
            self._session.reset(event.stream_id, spdy.PROTOCOL_ERROR)
            return
        # clients of old name no request: the error stream, an id earlier, is then the one that belongs to the data
        number = event.stream_id - 2 if kind == "data" else event.stream_id
        key = event.header("requestid") or f"stream {number}"
        pair = self._pairs.get(key)
        if pair is None:
            pair = self._pairs[key] = _Pair(int(port))
            pair.task = asyncio.ensure_future(self._connect(key, pair))
        if (pair.data_id if kind == "data" else pair.error_id) or pair.port != int(port):
            self._session.reset(event.stream_id, spdy.PROTOCOL_ERROR)
            return
        if kind == "data":
            pair.data_id = event.stream_id
            self._by_data[event.stream_id] = pair
        else:
            pair.error_id = event.stream_id
        self._session.accept(event.stream_id)
        if pair.data_id and pair.error_id:
            pair.complete.set()

    def _received(self, stream_id: int, data: bytes) -> None:
        pair = self._by_data.get(stream_id)
        if pair is None:  # an error stream is ours to speak on
            self._session.consumed(stream_id, len(data))
            return
        self._queued_bytes += len(data)
        pair.input.put(data)

    async def _connect(self, key: str, pair: _Pair) -> None:
        """The life of one connection; whatever becomes of it, the others go on."""
        message = ""
        try:
            async with asyncio.timeout(_PAIR_S):
                await pair.complete.wait()
            sock = await self._dialer.connect(pair.port)
            with sock:
                await self._exchange(pair, sock)
        except ClientGone:
            pass  # the reading side sees the same, and ends everything
        except Unavailable as error:
            log.info("port-forward", extra={"fields": {"error": str(error)}})
        except OakumError as error:
            message = str(error)
        except (OSError, TimeoutError) as error:
            log.info("port-forward", extra={"fields": {"port": pair.port, "error": str(error) or "no pair"}})
        finally:
            self._queued_bytes -= pair.input.size_bytes
            self._drained.fire()
            del self._pairs[key]
            self._by_data.pop(pair.data_id, None)
            self._session.send(pair.error_id, message.encode())
            self._session.finish(pair.error_id)
            if self._session.is_open(pair.data_id):
                self._session.reset(pair.data_id, spdy.CANCEL)
            self._link.put(self._carrier.pack(self._session.take()))

    async def _exchange(self, pair: _Pair, sock: socket.socket) -> None:
        """Both directions to their ends, each half-closed on its own."""
        sending = asyncio.ensure_future(self._to_pod(pair, sock))
        try:
            await self._to_client(pair, sock)
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _to_pod(self, pair: _Pair, sock: socket.socket) -> None:
        loop, heard = asyncio.get_running_loop(), True
        while data := await pair.input.get():
            try:
                if heard:
                    await loop.sock_sendall(sock, data)
            except OSError:  # it takes no more, but may still be talking: the other direction finds out
                heard = False
            finally:
                self._queued_bytes -= len(data)
                self._drained.fire()
            self._session.consumed(pair.data_id, len(data))
            await self._flush()
        if heard:
            sock.shutdown(socket.SHUT_WR)

    async def _to_client(self, pair: _Pair, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(sock, _BLOCK_BYTES):
            self._session.send(pair.data_id, data)
            await self._flush()
            while self._session.waiting_bytes(pair.data_id):
                await self._heard.wait()
        self._session.finish(pair.data_id)
        await self._flush()

    async def _flush(self) -> None:
        await self._link.send(self._carrier.pack(self._session.take()))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65535
