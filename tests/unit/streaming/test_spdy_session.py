# SPDX-License-Identifier: Apache-2.0
"""Two SPDY sessions talking: streams arrive whole and in order, windows hold, and one's fault is not the others'."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oakum.streaming.spdy.frames import (
    SETTING_INITIAL_WINDOW,
    BadFrame,
    Data,
    FrameReader,
    FrameWriter,
    GoAway,
    Ping,
    Reset,
    Settings,
    SynStream,
    WindowUpdate,
)
from oakum.streaming.spdy.session import (
    DEFAULT_WINDOW_BYTES,
    INVALID_STREAM,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    WINDOW_BYTES,
    Accepted,
    Ended,
    Opened,
    Received,
    Session,
    WasReset,
)

NAME = (("streamtype", "data"),)


def pair() -> tuple[Session, Session]:
    client, server = Session(client=True), Session()
    server.receive(client.take())
    client.receive(server.take())
    return client, server


def test_a_stream_from_open_to_both_ends() -> None:
    client, server = pair()
    stream = client.open(NAME)
    assert server.receive(client.take()) == [Opened(stream, NAME)]
    server.accept(stream)
    server.send(stream, b"hello")
    assert client.receive(server.take()) == [Accepted(stream), Received(stream, b"hello")]
    client.send(stream, b"question")
    client.finish(stream)
    client.send(stream, b"too late")
    assert server.receive(client.take()) == [Received(stream, b"question"), Ended(stream)]
    # half-closed: the other direction goes on
    server.send(stream, b"answer")
    server.finish(stream)
    assert client.receive(server.take()) == [Received(stream, b"answer"), Ended(stream)]
    assert not client.is_open(stream)
    assert not server.is_open(stream)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300_000)), max_size=20),
    st.integers(1, 200_000),
    st.booleans(),
)
def test_everything_arrives_whole_and_in_order(
    sends: list[tuple[int, int]], chunk: int, keeps_windows: bool
) -> None:
    client, server = Session(client=True), Session()
    if not keeps_windows:
        client.take()
    ids = [client.open(NAME) for _ in range(4)]
    server.receive(client.take())
    sent = {number: bytearray() for number in ids}
    for serial, (which, size) in enumerate(sends):
        block = bytes((serial,)) * size
        sent[ids[which]] += block
        server.send(ids[which], block)
    for number in ids:
        server.finish(number)
    got = {number: bytearray() for number in ids}
    under_way = 0
    ended: set[int] = set()
    while data := server.take():
        for at in range(0, len(data), chunk):
            for event in client.receive(data[at : at + chunk]):
                if isinstance(event, Received):
                    got[event.stream_id] += event.data
                    under_way += len(event.data)
                    if keeps_windows:
                        assert under_way <= WINDOW_BYTES
                        client.consumed(event.stream_id, len(event.data))
                        under_way -= len(event.data)
                elif isinstance(event, Ended):
                    ended.add(event.stream_id)
        if keeps_windows:
            server.receive(client.take())
    assert got == sent
    assert ended == set(ids)


def test_a_peer_that_keeps_windows_is_never_sent_more_than_it_allows() -> None:
    server, peer = Session(), FrameWriter()
    server.take()
    server.receive(peer.encode(Settings(((SETTING_INITIAL_WINDOW, 10),))) + peer.encode(SynStream(1, NAME)))
    server.send(1, b"x" * 25)
    server.finish(1)

    def said() -> list[object]:
        return [f for f in FrameReader().feed(server.take()) if isinstance(f, Data)]

    assert said() == [Data(1, b"x" * 10)]
    assert server.waiting_bytes(1) == 15
    server.receive(peer.encode(WindowUpdate(1, 4)))
    assert said() == [Data(1, b"x" * 4)]
    # a smaller initial window takes back what was given: nothing goes until it is made good
    server.receive(peer.encode(Settings(((SETTING_INITIAL_WINDOW, 5),))))
    server.receive(peer.encode(WindowUpdate(1, 5)))
    assert said() == []
    server.receive(peer.encode(WindowUpdate(1, 100)))
    assert said() == [Data(1, b"x" * 11, fin=True)]


def test_the_window_of_the_connection_holds_for_all_streams_together() -> None:
    server, peer = Session(), FrameWriter()
    server.receive(b"".join(peer.encode(SynStream(number, NAME)) for number in (1, 3)))
    server.receive(peer.encode(Settings(((SETTING_INITIAL_WINDOW, 1 << 20),))))
    server.take()
    server.send(1, b"a" * 50_000)
    server.send(3, b"b" * 50_000)
    reader = FrameReader()
    assert sum(len(f.data) for f in reader.feed(server.take()) if isinstance(f, Data)) == DEFAULT_WINDOW_BYTES
    server.receive(peer.encode(WindowUpdate(0, 1 << 20)))
    rest = [f for f in reader.feed(server.take()) if isinstance(f, Data)]
    assert sum(len(f.data) for f in rest) == 100_000 - DEFAULT_WINDOW_BYTES


def test_a_peer_that_never_speaks_of_windows_is_not_held_back() -> None:
    server, peer = Session(), FrameWriter()
    server.receive(peer.encode(SynStream(1, NAME)))
    server.send(1, b"x" * (4 << 20))
    assert server.waiting_bytes(1) == 0
    assert len(server.take()) > 4 << 20


def test_streams_beyond_the_limit_are_refused_and_those_below_go_on() -> None:
    server, peer = Session(max_streams=2), FrameWriter()
    server.take()
    events = server.receive(b"".join(peer.encode(SynStream(number, NAME)) for number in (1, 3, 5)))
    assert events == [Opened(1, NAME), Opened(3, NAME)]
    assert list(FrameReader().feed(server.take())) == [Reset(5, REFUSED_STREAM)]
    assert server.receive(peer.encode(Reset(1, 5))) == [WasReset(1, 5)]
    assert server.receive(peer.encode(SynStream(7, NAME))) == [Opened(7, NAME)]


def test_ids_may_come_out_of_order_but_not_twice_nor_from_the_wrong_side() -> None:
    server, peer = Session(), FrameWriter()
    server.take()
    events = server.receive(peer.encode(SynStream(5, NAME)) + peer.encode(SynStream(3, NAME)))
    assert [event.stream_id for event in events] == [5, 3]
    assert server.receive(peer.encode(SynStream(3, NAME))) == [WasReset(3, PROTOCOL_ERROR)]
    assert list(FrameReader().feed(server.take())) == [Reset(3, PROTOCOL_ERROR)]
    with pytest.raises(BadFrame):
        server.receive(peer.encode(SynStream(2, NAME)))
    server.go_away()
    assert list(FrameReader().feed(server.take())) == [GoAway(5, PROTOCOL_ERROR)]


def test_data_of_streams_that_are_not_there() -> None:
    server, peer = Session(), FrameWriter()
    server.take()
    assert server.receive(peer.encode(Data(9, b"x"))) == []
    assert list(FrameReader().feed(server.take())) == [Reset(9, INVALID_STREAM)]
    server.receive(peer.encode(SynStream(1, NAME)))
    server.reset(1, PROTOCOL_ERROR)
    server.take()
    # late data of a stream that we ended is dropped without a word, and given back to the connection's window
    assert server.receive(peer.encode(Data(1, b"x" * (WINDOW_BYTES // 2)))) == []
    assert list(FrameReader().feed(server.take())) == [WindowUpdate(0, WINDOW_BYTES // 2 + 1)]


def test_pings_are_answered_and_answers_are_not() -> None:
    client, server = pair()
    client.ping(7)
    server.receive(client.take())
    back = server.take()
    assert list(FrameReader().feed(back)) == [Ping(7)]
    assert client.receive(back) == []
    assert client.take() == b""


def test_a_window_without_end_is_refused() -> None:
    server, peer = Session(), FrameWriter()
    server.receive(peer.encode(SynStream(1, NAME)))
    assert server.receive(peer.encode(WindowUpdate(1, 0x7FFFFFFF))) == [WasReset(1, PROTOCOL_ERROR)]
    with pytest.raises(BadFrame):
        server.receive(peer.encode(WindowUpdate(0, 0x7FFFFFFF)))


def test_a_one_way_stream_is_only_listened_to() -> None:
    server, peer = Session(), FrameWriter()
    server.receive(peer.encode(SynStream(1, NAME, unidirectional=True)))
    server.take()
    server.send(1, b"x")
    assert server.take() == b""
    assert server.receive(peer.encode(Data(1, b"y", fin=True))) == [Received(1, b"y"), Ended(1)]
    assert not server.is_open(1)


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_rubbish_is_refused_and_nothing_else_happens(pieces: list[bytes]) -> None:
    server = Session()
    try:
        for piece in pieces:
            server.receive(piece)
    except BadFrame:
        server.go_away()
    server.take()
