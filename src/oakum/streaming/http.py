# SPDX-License-Identifier: Apache-2.0
"""The HTTP request that every stream begins with, and our answer to it. Pure: bytes in, bytes out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import h11

MAX_REQUEST_BYTES: Final = 32 << 10
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3

Headers = Sequence[tuple[str, str]]


class Refusal(Exception):
    """The request is answered with an HTTP error and the connection ends."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.headers = headers


class HttpRequest(NamedTuple):
    """A request line with its headers; names are in lower case."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    def words(self, name: str) -> list[str]:
        """The parts between commas of all headers of this name, in order."""
        values = (value for key, value in self.headers if key == name)
        return [word.strip() for value in values for word in value.split(",") if word.strip()]

    def first(self, name: str) -> str:
        """The first header of this name, or ""."""
        return next((value for key, value in self.headers if key == name), "")


class HttpUpgrade:
    """The HTTP part of a connection: one request, and either a switch to another protocol or an error."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        self._request: HttpRequest | None = None
        self._body_bytes = 0

    def feed(self, data: bytes) -> HttpRequest | None:
        """Take received bytes; the request once it is whole.

        Raises:
            Refusal: it is no request that can be answered with a stream.
        """
        try:
            self._http.receive_data(data)
            return self._next()
        except h11.RemoteProtocolError as error:
            raise Refusal(error.error_status_hint, "not a valid HTTP request") from error

    def _next(self) -> HttpRequest | None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in event.headers)
                    self._request = HttpRequest(
                        event.method.decode(), event.target.decode("latin-1"), headers
                    )
                case h11.Data():
                    self._body_bytes += len(event.data)
                    if self._body_bytes > MAX_REQUEST_BYTES:
                        raise Refusal(413, "a request for a stream has no body")
                case h11.EndOfMessage():
                    return self._request
                case h11.ConnectionClosed():
                    raise Refusal(400, "the connection ended before the request")
                case _:  # more bytes are needed, or the client has proposed to switch
                    return None

    def switch(self, headers: Headers) -> bytes:
        """The answer that makes the switch."""
        return self._http.send(h11.InformationalResponse(status_code=101, headers=_encoded(headers))) or b""

    def trailing(self) -> bytes:
        """What the client has already said in the new protocol."""
        return self._http.trailing_data[0]

    def refuse(self, refusal: Refusal) -> bytes:
        """The answer that ends the connection."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        body = (refusal.text + "\n").encode()
        headers = [
            *refusal.headers,
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        head = self._http.send(h11.Response(status_code=refusal.status, headers=_encoded(headers))) or b""
        return head + body


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def websocket_accept(request: HttpRequest) -> str:
    """The answer to a WebSocket client's key.

    Raises:
        Refusal: the key or the version is missing or wrong. Spec: RFC 6455, 4.2.1.
    """
    if request.first("sec-websocket-version") != "13":
        raise Refusal(426, "WebSocket version 13 is needed", [("Sec-WebSocket-Version", "13")])
    key = request.first("sec-websocket-key")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        valid = False
    if not valid:
        raise Refusal(400, "no valid Sec-WebSocket-Key")
    digest = hashlib.sha1(key.encode("latin-1") + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
