# SPDX-License-Identifier: Apache-2.0
"""SPDY frames: every frame comes out as it went in, however the bytes are cut, and rubbish is only ever refused."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.streaming.spdy.frames import (
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
)

_IDS = st.integers(1, 0x7FFFFFFF)
_NUMBERS = st.integers(0, 0xFFFFFFFF)
_HEADERS = st.dictionaries(
    st.sampled_from(["streamtype", "port", "requestid", "x"]), st.text("abc019", max_size=9), max_size=3
).map(lambda d: tuple(d.items()))
_FRAMES = st.one_of(
    st.builds(SynStream, _IDS, _HEADERS, st.booleans(), st.booleans()),
    st.builds(SynReply, _IDS, _HEADERS, st.booleans()),
    st.builds(MoreHeaders, _IDS, _HEADERS, st.booleans()),
    st.builds(Data, _IDS, st.binary(max_size=50), st.booleans()),
    st.builds(Reset, _IDS, _NUMBERS),
    st.builds(Settings, st.lists(st.tuples(st.integers(0, 0xFFFFFF), _NUMBERS), max_size=4).map(tuple)),
    st.builds(Ping, _NUMBERS),
    st.builds(GoAway, st.integers(0, 0x7FFFFFFF), _NUMBERS),
    st.builds(WindowUpdate, st.integers(0, 0x7FFFFFFF), st.integers(0, 0x7FFFFFFF)),
)


def joined(frames: Iterable[Frame]) -> list[Frame]:
    """Data in pieces as one frame again."""
    found: list[Frame] = []
    for frame in frames:
        last = found[-1] if found else None
        if (
            isinstance(frame, Data)
            and isinstance(last, Data)
            and last.stream_id == frame.stream_id
            and not last.fin
        ):
            found[-1] = Data(frame.stream_id, last.data + frame.data, frame.fin)
        else:
            found.append(frame)
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(_FRAMES, max_size=8), st.lists(st.integers(0, 400), max_size=20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[Frame], places: list[int]) -> None:
    writer, reader = FrameWriter(), FrameReader()
    data = b"".join(writer.encode(frame) for frame in frames)
    found = [frame for piece in cut(data, places) for frame in reader.feed(piece)]
    assert joined(found) == joined(frames)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_rubbish_is_refused_and_nothing_else_happens(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            list(reader.feed(piece))
    except BadFrame:
        pass


@given(st.integers(0, 20), st.integers(0, 255), st.binary(max_size=60))
def test_a_control_frame_with_any_body_is_taken_or_refused(kind: int, flags: int, body: bytes) -> None:
    frame = b"\x80\x03" + kind.to_bytes(2, "big") + bytes((flags,)) + len(body).to_bytes(3, "big") + body
    try:
        assert len(list(FrameReader().feed(frame))) <= 1
    except BadFrame:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01",  # SPDY/2
        b"\x80\x03\x00\x06\x00\x00\x00\x02\x00\x01",  # a short ping
        b"\x80\x03\x00\x01\x00\x01\x00\x01",  # 64 KiB and one byte of headers announced
        b"\x00\x00\x00\x00\x00\x00\x00\x01x",  # data on stream 0
        b"\x80\x03\x00\x04\x00\x00\x00\x04\xff\xff\xff\xff",  # more settings than bytes
        b"GET / HTTP/1.1\r\n\r\n" * 4 + b"\x80" * 20,
    ],
)
def test_what_no_peer_sends_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        list(FrameReader().feed(data + b"\0" * (16 << 20) if data.startswith(b"GET") else data))


def test_an_unknown_type_is_skipped() -> None:
    writer, reader = FrameWriter(), FrameReader()
    unknown = b"\x80\x03\x00\x2a\x00\x00\x00\x04abcd"
    assert list(reader.feed(unknown + writer.encode(Ping(3)))) == [Ping(3)]


def test_a_large_data_frame_is_handed_on_as_it_comes() -> None:
    reader = FrameReader()
    assert list(reader.feed(b"\x00\x00\x00\x05\x01\xff\xff\xff")) == []
    assert list(reader.feed(b"a" * 1000)) == [Data(5, b"a" * 1000, False)]
    assert len(reader._buffer) == 0
    (last,) = reader.feed(b"b" * ((1 << 24) - 1 - 1000))
    assert isinstance(last, Data)
    assert last.fin
