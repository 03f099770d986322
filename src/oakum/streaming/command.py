# SPDX-License-Identifier: Apache-2.0
"""The streams of an exec or attach, whatever carries them: one interface over SPDY streams and WebSocket channels.

    receive(bytes) ─► Input · InputEnded · Resized · Gone       output · finish ─► take() ─► bytes

Output and status go out in the order they are given in, so a status that is given last arrives last. Pure.
Spec: Kubernetes remote command sub-protocols, versions 1 to 5.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, Protocol, cast

from oakum.streaming import negotiate
from oakum.streaming.channels import ChannelClosed, ChannelData, Channels
from oakum.streaming.requests import Outcome, Wanted
from oakum.streaming.spdy import session as spdy
from oakum.streaming.status import encode_status
from oakum.streaming.websocket import PeerClosed

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
ERROR: Final = 3
RESIZE: Final = 4

_RESIZE_SINCE: Final = 3
_MAX_RESIZE_BYTES: Final = 1024
_NAMES: Final = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
_MAX_SIZE: Final = 0xFFFF


class Input(NamedTuple):
    """Bytes for the command; tell `consumed` when it has them."""

    data: bytes


class InputEnded(NamedTuple):
    """The client has no more input; it goes on listening."""


class Resized(NamedTuple):
    """The client's window, in characters."""

    rows: int
    columns: int


class Gone(NamedTuple):
    """The client has left."""


Event = Input | InputEnded | Resized | Gone


class CommandStreams(Protocol):
    """Server side of the streams."""

    @property
    def ready(self) -> bool:
        """Whether the client has opened every stream that the request promised."""
        ...

    def receive(self, data: bytes) -> list[Event]:
        """What the client says. Raises BadFrame when it cannot be understood."""
        ...

    def consumed(self, count: int) -> None:
        """So many bytes of input are dealt with."""
        ...

    def output(self, stream: int, data: bytes) -> None:
        """Send output on `STDOUT` or `STDERR`."""
        ...

    def waiting_bytes(self) -> int:
        """How much output waits for the client's permission."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """Send how it ended, and the end of everything."""
        ...

    def take(self) -> bytes:
        """The bytes to send now."""
        ...


def command_streams(protocol: negotiate.Protocol, wanted: Wanted) -> CommandStreams:
    """The streams in the protocol that was agreed on."""
    if protocol.carrier == "spdy":
        return SpdyCommand(protocol.version, wanted)
    return WebSocketCommand(protocol.version, wanted, base64_form=protocol.base64)


class _Sizes:
    """Window sizes out of a stream of JSON objects."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, data: bytes) -> list[Resized]:
        """The sizes that are whole now; what is no size is left out, and too much of it dropped."""
        self._text += data.decode("utf-8", "replace")
        found: list[Resized] = []
        decoder = json.JSONDecoder()
        while text := self._text.lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                self._text = text if len(text) <= _MAX_RESIZE_BYTES else ""
                return found
            self._text = text[end:]
            if (size := _size(value)) is not None:
                found.append(size)
        self._text = ""
        return found


def _size(value: object) -> Resized | None:
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    columns, rows = fields.get("Width"), fields.get("Height")
    if not isinstance(columns, int) or not isinstance(rows, int):
        return None
    return Resized(rows, columns) if 0 < rows <= _MAX_SIZE and 0 < columns <= _MAX_SIZE else None


class SpdyCommand:
    """One SPDY stream for each; the client opens them and names what each is for."""

    def __init__(self, version: int, wanted: Wanted) -> None:
        self._session = spdy.Session(max_streams=8)
        self._version = version
        self._missing = {ERROR}
        self._missing |= {STDIN} if wanted.stdin else set[int]()
        self._missing |= {STDOUT} if wanted.stdout else set[int]()
        self._missing |= {STDERR} if wanted.stderr and not wanted.tty else set[int]()
        self._missing |= {RESIZE} if wanted.tty and version >= _RESIZE_SINCE else set[int]()
        self._ids: dict[int, int] = {}
        self._streams: dict[int, int] = {}
        self._sizes = _Sizes()
        self._wanted = wanted

    @property
    def ready(self) -> bool:
        """Whether every stream is open."""
        return not self._missing

    def receive(self, data: bytes) -> list[Event]:
        """What the client says. Raises BadFrame."""
        events: list[Event] = []
        for event in self._session.receive(data):
            match event:
                case spdy.Opened():
                    self._opened(event)
                case spdy.Received(stream_id, received):
                    self._received(stream_id, received, events)
                case spdy.Ended(stream_id) | spdy.WasReset(stream_id, _):
                    if self._streams.get(stream_id) == STDIN:
                        events.append(InputEnded())
                case spdy.Accepted():
                    pass
        return events

    def _opened(self, event: spdy.Opened) -> None:
        stream = _NAMES.get(event.header("streamtype"))
        if stream is None or stream in self._ids:
            self._session.reset(event.stream_id, spdy.REFUSED_STREAM)
            return
        self._missing.discard(stream)
        self._ids[stream] = event.stream_id
        self._streams[event.stream_id] = stream
        self._session.accept(event.stream_id)

    def _received(self, stream_id: int, data: bytes, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream == STDIN and self._wanted.stdin:
            events.append(Input(data))
            return
        self._session.consumed(stream_id, len(data))
        if stream == RESIZE:
            events += self._sizes.feed(data)

    def consumed(self, count: int) -> None:
        """So many bytes of input are dealt with."""
        if STDIN in self._ids:
            self._session.consumed(self._ids[STDIN], count)

    def output(self, stream: int, data: bytes) -> None:
        """Send output."""
        if stream in self._ids:
            self._session.send(self._ids[stream], data)

    def waiting_bytes(self) -> int:
        """How much output waits for the client's window."""
        return sum(self._session.waiting_bytes(stream_id) for stream_id in self._streams)

    def finish(self, outcome: Outcome) -> None:
        """End the outputs, send how it ended, end the rest."""
        for stream in (STDOUT, STDERR):
            if stream in self._ids:
                self._session.finish(self._ids[stream])
        if ERROR in self._ids:
            self._session.send(self._ids[ERROR], encode_status(outcome, self._version))
        for stream_id in self._streams:
            self._session.finish(stream_id)

    def take(self) -> bytes:
        """The bytes to send now."""
        return self._session.take()


class WebSocketCommand:
    """One channel for each, numbered; all are there from the beginning."""

    def __init__(self, version: int, wanted: Wanted, *, base64_form: bool = False) -> None:
        self._channels = Channels(base64_form=base64_form, close_signal=version >= 5)
        self._version = version
        self._wanted = wanted
        self._sizes = _Sizes()
        self._input_open = wanted.stdin
        # tells clients that wait for a sign that the streams are there
        self._channels.send(STDOUT if wanted.stdout else STDERR if wanted.stderr else ERROR, b"")

    @property
    def ready(self) -> bool:
        """Always."""
        return True

    def receive(self, data: bytes) -> list[Event]:
        """What the client says."""
        events: list[Event] = []
        for event in self._channels.receive(data):
            match event:
                case PeerClosed():
                    events.append(Gone())
                case ChannelClosed(channel):
                    if channel == STDIN and self._input_open:
                        self._input_open = False
                        events.append(InputEnded())
                case ChannelData(channel, received, _):
                    if channel == STDIN and self._input_open and received:
                        events.append(Input(received))
                    elif channel == RESIZE:
                        events += self._sizes.feed(received)
        return events

    def consumed(self, count: int) -> None:
        """Nothing to say: a WebSocket has no windows, the connection itself is read no faster."""

    def output(self, stream: int, data: bytes) -> None:
        """Send output, if it was asked for."""
        if data and (self._wanted.stdout if stream == STDOUT else self._wanted.stderr):
            self._channels.send(stream, data)

    def waiting_bytes(self) -> int:
        """None ever wait."""
        return 0

    def finish(self, outcome: Outcome) -> None:
        """Send how it ended, and goodbye."""
        if status := encode_status(outcome, self._version):
            self._channels.send(ERROR, status)
        self._channels.close()

    def take(self) -> bytes:
        """The bytes to send now."""
        return self._channels.take()
