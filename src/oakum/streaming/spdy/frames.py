# SPDX-License-Identifier: Apache-2.0
"""Frames of SPDY/3.1: bytes to values and back, with the compression state of both directions.

Data frames are handed on in pieces as they arrive, so a peer's frame of 16 MiB needs no buffer; control frames
are bounded. What frames mean for streams is `session`'s business. Spec: SPDY/3.1, 2.2 and 2.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from oakum.streaming.spdy.headers import BadHeaders, HeaderReader, Headers, HeaderWriter

VERSION: Final = 3
HEADER_BYTES: Final = 8
MAX_CONTROL_BYTES: Final = 64 << 10
MAX_WINDOW_BYTES: Final = (1 << 31) - 1

_SYN_STREAM: Final = 1
_SYN_REPLY: Final = 2
_RST_STREAM: Final = 3
_SETTINGS: Final = 4
_PING: Final = 6
_GOAWAY: Final = 7
_HEADERS: Final = 8
_WINDOW_UPDATE: Final = 9

_FLAG_FIN: Final = 1
_FLAG_UNIDIRECTIONAL: Final = 2
_ID_MASK: Final = 0x7FFF_FFFF
SETTING_INITIAL_WINDOW: Final = 7


class BadFrame(ValueError):
    """The peer sent what no SPDY peer sends; the connection is of no further use."""


class SynStream(NamedTuple):
    """The peer opens a stream."""

    stream_id: int
    headers: Headers
    fin: bool = False
    unidirectional: bool = False


class SynReply(NamedTuple):
    """The peer accepts a stream."""

    stream_id: int
    headers: Headers = ()
    fin: bool = False


class MoreHeaders(NamedTuple):
    """Further headers of a stream."""

    stream_id: int
    headers: Headers
    fin: bool = False


class Data(NamedTuple):
    """A piece of a stream; `fin` with the last one of the last frame."""

    stream_id: int
    data: bytes
    fin: bool = False


class Reset(NamedTuple):
    """The end of a stream in both directions."""

    stream_id: int
    status: int


class Settings(NamedTuple):
    """Numbers by setting id."""

    values: tuple[tuple[int, int], ...]


class Ping(NamedTuple):
    """To be sent back as it is, if the peer made the id."""

    ping_id: int


class GoAway(NamedTuple):
    """The peer takes no more streams."""

    last_stream_id: int
    status: int


class WindowUpdate(NamedTuple):
    """So many more bytes may be sent on a stream, or (id 0) in all."""

    stream_id: int
    delta: int


Frame = SynStream | SynReply | MoreHeaders | Data | Reset | Settings | Ping | GoAway | WindowUpdate


class FrameWriter:
    """Frames to bytes."""

    def __init__(self) -> None:
        self._headers = HeaderWriter()

    def encode(self, frame: Frame) -> bytes:
        """The bytes of one frame; header blocks must be sent in the order they are encoded in."""
        match frame:
            case Data(stream_id, data, fin):
                return data_header(stream_id, len(data), fin=fin) + data
            case SynStream(stream_id, headers, fin, unidirectional):
                flags = (_FLAG_FIN if fin else 0) | (_FLAG_UNIDIRECTIONAL if unidirectional else 0)
                body = struct.pack(">IIH", stream_id, 0, 0) + self._headers.pack(headers)
                return _control(_SYN_STREAM, flags, body)
            case SynReply(stream_id, headers, fin):
                body = struct.pack(">I", stream_id) + self._headers.pack(headers)
                return _control(_SYN_REPLY, _FLAG_FIN if fin else 0, body)
            case MoreHeaders(stream_id, headers, fin):
                body = struct.pack(">I", stream_id) + self._headers.pack(headers)
                return _control(_HEADERS, _FLAG_FIN if fin else 0, body)
            case Settings(values):
                pairs = b"".join(struct.pack(">II", number & 0xFFFFFF, value) for number, value in values)
                return _control(_SETTINGS, 0, struct.pack(">I", len(values)) + pairs)
            case Reset(stream_id, status):
                return _control(_RST_STREAM, 0, struct.pack(">II", stream_id, status))
            case Ping(ping_id):
                return _control(_PING, 0, struct.pack(">I", ping_id))
            case GoAway(last_stream_id, status):
                return _control(_GOAWAY, 0, struct.pack(">II", last_stream_id, status))
            case WindowUpdate(stream_id, delta):
                return _control(_WINDOW_UPDATE, 0, struct.pack(">II", stream_id, delta))


def data_header(stream_id: int, length: int, *, fin: bool) -> bytes:
    """The first eight bytes of a data frame, for callers that send the payload without copying it."""
    return struct.pack(">II", stream_id, (_FLAG_FIN if fin else 0) << 24 | length)


def _control(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(body)) + body


class FrameReader:
    """Bytes to frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._headers = HeaderReader()
        self._data_stream = 0
        self._data_left = 0
        self._data_fin = False

    def feed(self, received: bytes) -> Iterable[Frame]:
        """The frames, and pieces of data frames, that `received` completes.

        Raises:
            BadFrame: the peer does not speak SPDY/3.1; nothing after it can be understood.
        """
        self._buffer += received
        view = memoryview(self._buffer)
        found: list[Frame] = []
        at = 0
        try:
            while True:
                if self._data_left:
                    taken = min(self._data_left, len(view) - at)
                    if not taken:
                        break
                    at = self._piece(view, at, taken, found)
                    continue
                if len(view) - at < HEADER_BYTES:
                    break
                first, second = struct.unpack_from(">II", view, at)
                length = second & 0xFFFFFF
                if not first >> 31:
                    self._begin_data(first, second >> 24, length, found)
                    at += HEADER_BYTES
                    continue
                if length > MAX_CONTROL_BYTES:
                    raise BadFrame(f"a control frame of {length} bytes")
                end = at + HEADER_BYTES + length
                if len(view) < end:
                    break
                self._take_control(first, second >> 24, bytes(view[at + HEADER_BYTES : end]), found)
                at = end
        finally:
            view.release()
        del self._buffer[:at]
        return found

    def _begin_data(self, stream_id: int, flags: int, length: int, found: list[Frame]) -> None:
        if not stream_id:
            raise BadFrame("data on stream 0")
        self._data_stream, self._data_left, self._data_fin = stream_id, length, bool(flags & _FLAG_FIN)
        if not length:
            found.append(Data(stream_id, b"", self._data_fin))

    def _piece(self, view: memoryview, at: int, taken: int, found: list[Frame]) -> int:
        self._data_left -= taken
        fin = self._data_fin and not self._data_left
        found.append(Data(self._data_stream, bytes(view[at : at + taken]), fin))
        return at + taken

    def _take_control(self, first: int, flags: int, body: bytes, found: list[Frame]) -> None:
        if first >> 16 & 0x7FFF != VERSION:
            raise BadFrame(f"SPDY version {first >> 16 & 0x7FFF}")
        try:
            frame = self._control(first & 0xFFFF, flags, body)
        except struct.error as error:
            raise BadFrame(f"a control frame of type {first & 0xFFFF} that is too short") from error
        except BadHeaders as error:
            raise BadFrame(f"headers: {error}") from error
        if frame is not None:
            found.append(frame)

    def _control(self, kind: int, flags: int, body: bytes) -> Frame | None:
        if kind == _SETTINGS:
            return _settings(body)
        (subject,) = struct.unpack_from(">I", body)
        subject &= _ID_MASK if kind != _PING else 0xFFFF_FFFF
        if kind in (_SYN_STREAM, _SYN_REPLY, _HEADERS, _RST_STREAM) and not subject:
            raise BadFrame(f"a control frame of type {kind} for stream 0")
        if kind in (_SYN_STREAM, _SYN_REPLY, _HEADERS):
            return self._with_headers(kind, flags, subject, body)
        if kind == _PING:
            return Ping(subject)
        if kind in (_RST_STREAM, _GOAWAY, _WINDOW_UPDATE):
            (number,) = struct.unpack_from(">I", body, 4)
            if kind == _RST_STREAM:
                return Reset(subject, number)
            return GoAway(subject, number) if kind == _GOAWAY else WindowUpdate(subject, number & _ID_MASK)
        return None  # an unknown type is to be ignored. Spec: SPDY/3.1, 2.2.1

    def _with_headers(self, kind: int, flags: int, stream_id: int, body: bytes) -> Frame:
        fin = bool(flags & _FLAG_FIN)
        if kind == _SYN_STREAM:
            if len(body) < 10:
                raise BadFrame("a SYN_STREAM that is too short")
            headers = self._headers.unpack(body[10:])
            return SynStream(stream_id, headers, fin, bool(flags & _FLAG_UNIDIRECTIONAL))
        headers = self._headers.unpack(body[4:])
        return (
            SynReply(stream_id, headers, fin) if kind == _SYN_REPLY else MoreHeaders(stream_id, headers, fin)
        )


def _settings(body: bytes) -> Settings:
    (count,) = struct.unpack_from(">I", body)
    if len(body) != 4 + 8 * count:
        raise BadFrame(f"{len(body)} bytes for {count} settings")
    pairs = struct.iter_unpack(">II", body[4:])
    return Settings(tuple((number & 0xFFFFFF, value) for number, value in pairs))
