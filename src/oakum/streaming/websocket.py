# SPDX-License-Identifier: Apache-2.0
"""A WebSocket after its handshake, as the streams use it: messages cut into pieces, pings answered, one close.

Pure, over wsproto. What messages mean is not known here. Spec: RFC 6455.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

NORMAL_CLOSURE: Final = 1000
PROTOCOL_ERROR: Final = 1002


class Piece(NamedTuple):
    """A part of a message, as it arrives; `text` messages arrive as their UTF-8 bytes."""

    data: bytes
    first: bool
    last: bool
    text: bool


class PeerClosed(NamedTuple):
    """The peer says goodbye, or what it sent is no WebSocket."""

    code: int


class WebSocket:
    """One side of an open WebSocket."""

    def __init__(self, *, client: bool = False) -> None:
        self._connection = Connection(ConnectionType.CLIENT if client else ConnectionType.SERVER)
        self._out: list[bytes] = []
        self._at_start = True

    def receive(self, data: bytes) -> list[Piece | PeerClosed]:
        """What `data` brings. Nothing follows a `PeerClosed`."""
        if self._connection.state not in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            return []
        self._connection.receive_data(data)
        found: list[Piece | PeerClosed] = []
        for event in self._connection.events():
            match event:
                case BytesMessage() | TextMessage():
                    found.append(self._piece(event))
                case Ping():
                    if self._connection.state is ConnectionState.OPEN:
                        self._out.append(self._connection.send(event.response()))
                case CloseConnection():
                    self._answer_close(event)
                    found.append(PeerClosed(int(event.code)))
                    break
                case _:  # a pong
                    pass
        return found

    def _piece(self, event: BytesMessage | TextMessage) -> Piece:
        first, self._at_start = self._at_start, event.message_finished
        if isinstance(event, TextMessage):
            return Piece(event.data.encode(), first, event.message_finished, text=True)
        return Piece(bytes(event.data), first, event.message_finished, text=False)

    def _answer_close(self, event: CloseConnection) -> None:
        if self._connection.state is ConnectionState.REMOTE_CLOSING:
            self._out.append(self._connection.send(event.response()))
        elif self._connection.state is ConnectionState.OPEN:  # wsproto found the stream broken
            self._out.append(self._connection.send(CloseConnection(code=event.code)))

    def send(self, data: bytes, *, text: bool = False) -> None:
        """Send one message; nothing happens once either side has closed."""
        if self._connection.state is ConnectionState.OPEN:
            message = TextMessage(data=data.decode("latin-1")) if text else BytesMessage(data=data)
            self._out.append(self._connection.send(message))

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._connection.state is ConnectionState.OPEN:
            self._out.append(self._connection.send(Ping(payload=b"")))

    def close(self, code: int = NORMAL_CLOSURE) -> None:
        """Say goodbye; the peer's own follows."""
        if self._connection.state is ConnectionState.OPEN:
            self._out.append(self._connection.send(CloseConnection(code=code)))

    def take(self) -> bytes:
        """The bytes to send now."""
        out, self._out = self._out, []
        return b"".join(out)
