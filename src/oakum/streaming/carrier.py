# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a SPDY session travel: as they are, or in the messages of a WebSocket (a tunnel). Pure."""

from __future__ import annotations

from typing import Protocol

from oakum.streaming.websocket import PeerClosed, WebSocket


class Carrier(Protocol):
    """Bytes in, bytes out."""

    def unpack(self, data: bytes) -> bytes | None:
        """The carried bytes in received ones; None when the peer has said goodbye."""
        ...

    def pack(self, data: bytes) -> bytes:
        """What to send for carried bytes, answers of the carrier's own included."""
        ...

    def goodbye(self) -> bytes:
        """What to send in the end."""
        ...


class Plain:
    """The connection itself."""

    def unpack(self, data: bytes) -> bytes | None:
        """The same bytes."""
        return data

    def pack(self, data: bytes) -> bytes:
        """The same bytes."""
        return data

    def goodbye(self) -> bytes:
        """Nothing."""
        return b""


class Tunnel:
    """Binary messages of a WebSocket, whose borders mean nothing. Spec: sub-protocol SPDY/3.1+portforward.k8s.io."""

    def __init__(self, *, client: bool = False) -> None:
        self._socket = WebSocket(client=client)

    def unpack(self, data: bytes) -> bytes | None:
        """The bytes of all messages; what comes with a goodbye is dropped with it."""
        parts: list[bytes] = []
        for piece in self._socket.receive(data):
            if isinstance(piece, PeerClosed):
                return None
            parts.append(piece.data)
        return b"".join(parts)

    def pack(self, data: bytes) -> bytes:
        """One message."""
        if data:
            self._socket.send(data)
        return self._socket.take()

    def goodbye(self) -> bytes:
        """The close of the WebSocket."""
        self._socket.close()
        return self._socket.take()
