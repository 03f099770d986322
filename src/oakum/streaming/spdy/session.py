# SPDX-License-Identifier: Apache-2.0
"""One SPDY/3.1 connection, either side: streams that open, half-close and reset, and the windows of both directions.

    receive(bytes) ─► events          open · accept · send · finish · reset ─► take() ─► bytes

Windows are kept in both directions. A peer's window holds us back only once the peer has shown that it keeps
one (by SETTINGS or WINDOW_UPDATE): the library that most clients use never sends either, and would wait for
ever after 64 KiB. The same peers send without regard to ours; so the caller also stops reading when it cannot keep up.
Spec: SPDY/3.1, 2.3 and 2.6.8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from oakum.streaming.spdy.frames import (
    MAX_WINDOW_BYTES,
    SETTING_INITIAL_WINDOW,
    BadFrame,
    Data,
    Frame,
    FrameReader,
    FrameWriter,
    GoAway,
    MoreHeaders,
    Ping,
    Reset,
    Settings,
    SynReply,
    SynStream,
    WindowUpdate,
    data_header,
)
from oakum.streaming.spdy.headers import Headers

DEFAULT_WINDOW_BYTES: Final = 64 << 10
WINDOW_BYTES: Final = 1 << 20
"""What a peer that keeps windows may have under way to us, for each stream and for all together."""
_CHUNK_BYTES: Final = 128 << 10

# Spec: SPDY/3.1, 2.6.3 and 2.6.6.
PROTOCOL_ERROR: Final = 1
INVALID_STREAM: Final = 2
REFUSED_STREAM: Final = 3
CANCEL: Final = 5
INTERNAL_ERROR: Final = 6
GOAWAY_PROTOCOL_ERROR: Final = 1


class Opened(NamedTuple):
    """The peer asks for a stream: `accept` it or `reset` it."""

    stream_id: int
    headers: Headers

    def header(self, name: str) -> str:
        """The first value of a header, or ""."""
        return next((value for key, value in self.headers if key == name), "")


class Accepted(NamedTuple):
    """The peer has taken a stream of ours."""

    stream_id: int


class Received(NamedTuple):
    """Bytes of a stream; tell `consumed` when they are dealt with."""

    stream_id: int
    data: bytes


class Ended(NamedTuple):
    """The peer sends no more on this stream; the other direction may go on."""

    stream_id: int


class WasReset(NamedTuple):
    """The peer ends this stream in both directions."""

    stream_id: int
    status: int


Event = Opened | Accepted | Received | Ended | WasReset


class _Stream:
    __slots__ = ("finishing", "queue", "queued_bytes", "receiving", "sending", "unacked", "window")

    def __init__(self, window: int, *, sending: bool = True, receiving: bool = True) -> None:
        self.window = window
        self.sending = sending
        self.receiving = receiving
        self.finishing = False
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.unacked = 0


class Session:
    """One connection. All calls are cheap and none waits."""

    def __init__(self, *, client: bool = False, max_streams: int = 1024) -> None:
        self._reader = FrameReader()
        self._writer = FrameWriter()
        self._max_streams = max_streams
        self._next_id = 1 if client else 2
        self._highest_peer_id = 0
        self._streams: dict[int, _Stream] = {}
        self._out: list[bytes] = []
        self._peer_keeps_windows = False
        self._peer_initial_window = DEFAULT_WINDOW_BYTES
        self._window = DEFAULT_WINDOW_BYTES
        self._unacked = 0
        self._put(Settings(((SETTING_INITIAL_WINDOW, WINDOW_BYTES),)))
        self._put(WindowUpdate(0, WINDOW_BYTES - DEFAULT_WINDOW_BYTES))

    # -- what we say --------------------------------------------------------------------------------------------

    def open(self, headers: Headers, *, fin: bool = False) -> int:
        """Ask for a stream; its id. With `fin` we shall send nothing on it."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._streams[stream_id] = _Stream(self._peer_initial_window, sending=not fin)
        self._put(SynStream(stream_id, headers, fin))
        return stream_id

    def accept(self, stream_id: int) -> None:
        """Take a stream that the peer asked for."""
        if stream_id in self._streams:
            self._put(SynReply(stream_id))

    def send(self, stream_id: int, data: bytes) -> None:
        """Send bytes; what the peer's window does not allow yet waits. Nothing happens on an ended stream."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending or stream.finishing or not data:
            return
        stream.queue.append(data)
        stream.queued_bytes += len(data)
        self._flush(stream_id, stream)

    def finish(self, stream_id: int) -> None:
        """Send no more on this stream after what waits."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.sending and not stream.finishing:
            stream.finishing = True
            self._flush(stream_id, stream)

    def reset(self, stream_id: int, status: int) -> None:
        """End a stream in both directions; what waits is dropped."""
        if self._streams.pop(stream_id, None) is not None:
            self._put(Reset(stream_id, status))

    def consumed(self, stream_id: int, count: int) -> None:
        """The caller has dealt with `count` bytes of the stream: the peer may send as many more."""
        self._unacked += count
        if self._unacked >= WINDOW_BYTES // 2:
            self._put(WindowUpdate(0, self._unacked))
            self._unacked = 0
        stream = self._streams.get(stream_id)
        if stream is not None and stream.receiving:
            stream.unacked += count
            if stream.unacked >= WINDOW_BYTES // 2:
                self._put(WindowUpdate(stream_id, stream.unacked))
                stream.unacked = 0

    def ping(self, number: int) -> None:
        """Ask for a sign of life; `number` is odd from a client."""
        self._put(Ping(number))

    def go_away(self, status: int = GOAWAY_PROTOCOL_ERROR) -> None:
        """Say that nothing more will be understood."""
        self._put(GoAway(self._highest_peer_id, status))

    def take(self) -> bytes:
        """The bytes to send now."""
        out, self._out = self._out, []
        return b"".join(out)

    # -- what we know -------------------------------------------------------------------------------------------

    def is_open(self, stream_id: int) -> bool:
        """Whether either direction of the stream goes on."""
        return stream_id in self._streams

    def waiting_bytes(self, stream_id: int) -> int:
        """How many bytes wait for the peer's window."""
        stream = self._streams.get(stream_id)
        return stream.queued_bytes if stream is not None else 0

    # -- what the peer says -------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What happened on the streams.

        Raises:
            BadFrame: the connection is of no further use; say `go_away` and close it.
        """
        events: list[Event] = []
        for frame in self._reader.feed(data):
            self._take_frame(frame, events)
        return events

    def _take_frame(self, frame: Frame, events: list[Event]) -> None:
        match frame:
            case Data():
                self._take_data(frame, events)
            case SynStream():
                self._take_open(frame, events)
            case SynReply(stream_id, _, fin) | MoreHeaders(stream_id, _, fin):
                if isinstance(frame, SynReply) and stream_id in self._streams:
                    events.append(Accepted(stream_id))
                self._peer_finished(stream_id, fin=fin, events=events)
            case Reset(stream_id, status):
                if self._streams.pop(stream_id, None) is not None:
                    events.append(WasReset(stream_id, status))
            case Settings(values):
                self._take_settings(values)
            case WindowUpdate(stream_id, delta):
                self._take_window(stream_id, delta, events)
            case Ping(ping_id):
                self._take_ping(ping_id)
            case GoAway():
                pass  # the peer opens the streams; it may close the connection when it likes

    def _take_ping(self, ping_id: int) -> None:
        # an id of our own parity is the answer to a ping of ours
        if ping_id % 2 != self._next_id % 2:
            self._put(Ping(ping_id))

    def _take_open(self, frame: SynStream, events: list[Event]) -> None:
        stream_id = frame.stream_id
        if stream_id % 2 == self._next_id % 2:
            raise BadFrame(f"the peer opened stream {stream_id}, an id of ours")
        if stream_id in self._streams:
            # Spec: 2.3.2; both ends then know nothing of the stream any more
            self.reset(stream_id, PROTOCOL_ERROR)
            events.append(WasReset(stream_id, PROTOCOL_ERROR))
            return
        # Ids may come out of order: peers number streams before they take turns at sending.
        self._highest_peer_id = max(self._highest_peer_id, stream_id)
        if len(self._streams) >= self._max_streams:
            self._put(Reset(stream_id, REFUSED_STREAM))
            return
        self._streams[stream_id] = _Stream(self._peer_initial_window, sending=not frame.unidirectional)
        events.append(Opened(stream_id, frame.headers))
        self._peer_finished(stream_id, fin=frame.fin, events=events)

    def _take_data(self, frame: Data, events: list[Event]) -> None:
        stream = self._streams.get(frame.stream_id)
        if stream is None or not stream.receiving:
            # late bytes of a stream that we have ended count for the connection's window all the same
            self.consumed(frame.stream_id, len(frame.data))
            if frame.stream_id > self._highest_peer_id and frame.stream_id % 2 != self._next_id % 2:
                self._put(Reset(frame.stream_id, INVALID_STREAM))
            return
        if frame.data:
            events.append(Received(frame.stream_id, frame.data))
        self._peer_finished(frame.stream_id, fin=frame.fin, events=events)

    def _peer_finished(self, stream_id: int, *, fin: bool, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if fin and stream is not None and stream.receiving:
            stream.receiving = False
            events.append(Ended(stream_id))
            self._forget_if_over(stream_id, stream)

    def _take_settings(self, values: Iterable[tuple[int, int]]) -> None:
        for number, value in values:
            if number != SETTING_INITIAL_WINDOW:
                continue
            if value > MAX_WINDOW_BYTES:
                raise BadFrame(f"an initial window of {value} bytes")
            self._peer_keeps_windows = True
            change, self._peer_initial_window = value - self._peer_initial_window, value
            for stream in self._streams.values():
                stream.window += change
        self._flush_all()

    def _take_window(self, stream_id: int, delta: int, events: list[Event]) -> None:
        self._peer_keeps_windows = True
        if not stream_id:
            self._window += delta
            if self._window > MAX_WINDOW_BYTES:
                raise BadFrame("the connection's window has no end")
            self._flush_all()
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.window += delta
        if stream.window > MAX_WINDOW_BYTES:
            self.reset(stream_id, PROTOCOL_ERROR)
            events.append(WasReset(stream_id, PROTOCOL_ERROR))
            return
        self._flush(stream_id, stream)

    # -- sending ------------------------------------------------------------------------------------------------

    def _put(self, frame: Frame) -> None:
        self._out.append(self._writer.encode(frame))

    def _flush_all(self) -> None:
        for stream_id, stream in list(self._streams.items()):
            self._flush(stream_id, stream)

    def _flush(self, stream_id: int, stream: _Stream) -> None:
        while stream.queue:
            allowed = _CHUNK_BYTES
            if self._peer_keeps_windows:
                allowed = min(allowed, stream.window, self._window)
                if allowed <= 0:
                    return
            data = stream.queue.popleft()
            if len(data) > allowed:
                stream.queue.appendleft(data[allowed:])
                data = data[:allowed]
            stream.queued_bytes -= len(data)
            stream.window -= len(data)
            self._window -= len(data)
            last = stream.finishing and not stream.queue
            self._out += (data_header(stream_id, len(data), fin=last), data)
            if last:
                self._sent_last(stream_id, stream)
                return
        if stream.finishing and stream.sending:
            self._out.append(data_header(stream_id, 0, fin=True))
            self._sent_last(stream_id, stream)

    def _sent_last(self, stream_id: int, stream: _Stream) -> None:
        stream.sending = False
        self._forget_if_over(stream_id, stream)

    def _forget_if_over(self, stream_id: int, stream: _Stream) -> None:
        if not stream.sending and not stream.receiving:
            self._streams.pop(stream_id, None)
