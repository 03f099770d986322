# SPDX-License-Identifier: Apache-2.0
"""Channels in a WebSocket: each message is the number of a channel and bytes, plain or in base64.

    plain   binary   <number> <bytes> ...           close of channel n (v5):  <255> <n>
    base64  text     <digit>  <base64 of bytes>

Messages are passed on in pieces as they arrive, so a client's large one needs no buffer. Pure.
Spec: the Kubernetes WebSocket sub-protocols `channel.k8s.io`, v4, v5 and their base64 forms.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

from oakum.streaming.websocket import PROTOCOL_ERROR, PeerClosed, WebSocket

_CLOSE_SIGNAL: Final = 255


class ChannelData(NamedTuple):
    """Bytes of a channel; `message_over` when they are the last of their message."""

    channel: int
    data: bytes
    message_over: bool = True


class ChannelClosed(NamedTuple):
    """The peer sends no more on this channel."""

    channel: int


ChannelEvent = ChannelData | ChannelClosed | PeerClosed


class Channels:
    """All channels of one WebSocket, either side."""

    def __init__(
        self, *, base64_form: bool = False, close_signal: bool = False, client: bool = False
    ) -> None:
        self._socket = WebSocket(client=client)
        self._base64 = base64_form
        self._close_signal = close_signal
        self._channel: int | None = None
        self._held = b""  # base64 digits that do not make whole bytes yet
        self._over = False

    def receive(self, data: bytes) -> list[ChannelEvent]:
        """What happened on the channels. Nothing follows a `PeerClosed`."""
        events: list[ChannelEvent] = []
        if self._over:
            return events
        for piece in self._socket.receive(data):
            if isinstance(piece, PeerClosed):
                self._over = True
                events.append(piece)
                break
            if piece.first:
                self._channel, self._held = None, b""
            if not self._take(piece.data, last=piece.last, events=events):
                self._over = True
                self._socket.close(PROTOCOL_ERROR)
                events.append(PeerClosed(PROTOCOL_ERROR))
                break
        return events

    def _take(self, data: bytes, *, last: bool, events: list[ChannelEvent]) -> bool:
        """Add what a piece says; False when it makes no sense."""
        if self._channel is None:
            if not data:
                return True  # an empty message says nothing; clients use it as a sign of life
            self._channel = data[0] - ord("0") if self._base64 else data[0]
            data = data[1:]
        if self._channel == _CLOSE_SIGNAL and self._close_signal:
            if data:
                events.append(ChannelClosed(data[0]))
            return len(data) <= 1
        if self._base64:
            decoded = self._decode(data, last=last)
            if decoded is None or not 0 <= self._channel <= 9:
                return False
            data = decoded
        if data or last:
            events.append(ChannelData(self._channel, data, last))
        return True

    def _decode(self, data: bytes, *, last: bool) -> bytes | None:
        digits = self._held + data
        whole = len(digits) - len(digits) % 4
        if last and whole != len(digits):
            return None
        digits, self._held = digits[:whole], digits[whole:]
        try:
            return base64.b64decode(digits, validate=True)
        except binascii.Error:
            return None

    def send(self, channel: int, data: bytes) -> None:
        """Send one message on a channel."""
        if self._base64:
            self._socket.send(b"%d" % channel + base64.b64encode(data), text=True)
        else:
            self._socket.send(bytes((channel,)) + data)

    def finish(self, channel: int) -> None:
        """Say that nothing more comes on a channel, where the sub-protocol can say it."""
        if self._close_signal:
            self._socket.send(bytes((_CLOSE_SIGNAL, channel)))

    def close(self) -> None:
        """Say goodbye."""
        self._socket.close()

    def take(self) -> bytes:
        """The bytes to send now."""
        return self._socket.take()
