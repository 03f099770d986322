# SPDX-License-Identifier: Apache-2.0
"""An attach for a remote client: the shim's frames on one side, the client's streams on the other.

A client with the input is in charge: the container waits for it, so that nothing is lost between the two. One that
only looks on is never waited for: it is dropped, and told so, when it falls too far behind.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Final

from oakum.errors import OakumError, from_dict
from oakum.shim import frames
from oakum.streaming.command import STDERR, STDOUT, Resized
from oakum.streaming.conversation import Conversation, first_of
from oakum.streaming.link import Link
from oakum.streaming.requests import AttachRequest, Outcome
from oakum.streaming.source import StreamSource
from oakum.streaming.threads import in_thread

_RECEIVE_BYTES: Final = 256 << 10
_BEHIND_BYTES: Final = 8 << 20


async def serve_attach(
    conversation: Conversation, link: Link, request: AttachRequest, source: StreamSource
) -> None:
    """Join the container for this client, to the end of either."""
    if not request.wanted.stdin:
        link.allow_behind(_BEHIND_BYTES)
        conversation.behind_bytes = _BEHIND_BYTES
    await first_of(conversation.listen(), _Attach(conversation, request, source).run())


class _Attach:
    def __init__(self, conversation: Conversation, request: AttachRequest, source: StreamSource) -> None:
        self._conversation = conversation
        self._request = request
        self._source = source

    async def run(self) -> None:
        try:
            sock = await in_thread(self._join, unwanted=socket.socket.close)
        except OakumError as error:
            await self._conversation.finish(Outcome(error=str(error)))
            return
        with sock:
            feeding = asyncio.ensure_future(self._feed(sock))
            try:
                outcome = await self._pump(sock)
            finally:
                self._conversation.on_resize = None
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
        await self._conversation.finish(outcome)

    def _join(self) -> socket.socket:
        wanted = self._request.wanted
        sock = self._source.attach(
            self._request.container_id,
            stdin=wanted.stdin,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
            backpressure=wanted.stdin,
        )
        sock.settimeout(0)
        return sock

    async def _pump(self, sock: socket.socket) -> Outcome:
        loop, decoder = asyncio.get_running_loop(), frames.Decoder()
        while True:
            try:
                data = await loop.sock_recv(sock, _RECEIVE_BYTES)
            except OSError as error:
                return Outcome(error=f"attach {self._request.container_id[:12]}: {error.strerror}")
            if not data:
                return Outcome(error=f"attach {self._request.container_id[:12]}: its supervisor has ended")
            for kind, payload in decoder.feed(data):
                if kind == frames.STDOUT:
                    await self._conversation.output(STDOUT, payload)
                elif kind == frames.STDERR:
                    await self._conversation.output(STDERR, payload)
                elif kind == frames.EXIT:
                    # the container's exit code is told by its status; here only that all went well
                    return Outcome()
                elif kind == frames.ERROR:
                    return Outcome(error=str(from_dict(json.loads(payload))))

    async def _feed(self, sock: socket.socket) -> None:
        """Send input and sizes; frames of the two must not mix."""
        turn = asyncio.Lock()
        sizes: asyncio.Queue[Resized] = asyncio.Queue()

        async def follow_sizes() -> None:
            while True:
                size = await sizes.get()
                numbers = {"rows": size.rows, "columns": size.columns}
                await _send(sock, turn, frames.RESIZE, json.dumps(numbers).encode())

        if self._conversation.size is not None:
            sizes.put_nowait(self._conversation.size)
        self._conversation.on_resize = sizes.put_nowait
        following = asyncio.ensure_future(follow_sizes())
        try:
            while data := await self._conversation.input():
                for at in range(0, len(data), frames.MAX_PAYLOAD_BYTES):
                    await _send(sock, turn, frames.STDIN, data[at : at + frames.MAX_PAYLOAD_BYTES])
                await self._conversation.taken(len(data))
            if self._request.wanted.stdin:
                await _send(sock, turn, frames.CLOSE_STDIN)
            await following
        finally:
            following.cancel()


async def _send(sock: socket.socket, turn: asyncio.Lock, kind: int, payload: bytes = b"") -> None:
    async with turn:
        try:
            await asyncio.get_running_loop().sock_sendall(sock, frames.encode(kind, payload))
        except OSError:  # the shim has gone: the one who reads from it says so
            pass
