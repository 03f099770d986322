# SPDX-License-Identifier: Apache-2.0
"""The streams of an exec, the same over both carriers: what a client says becomes events, in every version."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.streaming.channels import ChannelData, Channels
from oakum.streaming.command import (
    ERROR,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    Event,
    Gone,
    Input,
    InputEnded,
    Resized,
    SpdyCommand,
    WebSocketCommand,
    _Sizes,
)
from oakum.streaming.requests import Outcome, Wanted
from oakum.streaming.spdy.session import Accepted, Ended, Received, Session, WasReset
from oakum.streaming.websocket import PeerClosed

ALL = Wanted(stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(stdin=True, stdout=True, tty=True)


def size(rows: int, columns: int) -> bytes:
    return json.dumps({"Width": columns, "Height": rows}).encode()


def open_streams(command: SpdyCommand, *names: str) -> tuple[Session, dict[str, int]]:
    client = Session(client=True)
    ids = {name: client.open((("streamType", name),)) for name in names}
    assert command.receive(client.take()) == []
    client.receive(command.take())
    return client, ids


@pytest.mark.parametrize(
    ("wanted", "version", "names"),
    [
        (ALL, 1, ["error", "stdin", "stdout", "stderr"]),
        (ALL, 4, ["stderr", "stdout", "stdin", "error"]),
        (Wanted(stdout=True), 4, ["error", "stdout"]),
        (TERMINAL, 2, ["error", "stdin", "stdout"]),
        (TERMINAL, 3, ["error", "stdin", "stdout", "resize"]),
    ],
)
def test_it_is_ready_when_every_promised_stream_is_open(
    wanted: Wanted, version: int, names: list[str]
) -> None:
    command = SpdyCommand(version, wanted)
    client = Session(client=True)
    for name in names:
        assert not command.ready
        client.open((("streamType", name),))
        command.receive(client.take())
        assert [type(event) for event in client.receive(command.take())] == [Accepted]
    assert command.ready


def test_spdy_from_input_to_status() -> None:
    command = SpdyCommand(4, ALL)
    client, ids = open_streams(command, "error", "stdin", "stdout", "stderr")
    client.send(ids["stdin"], b"in")
    client.finish(ids["stdin"])
    assert command.receive(client.take()) == [Input(b"in"), InputEnded()]
    command.output(STDERR, b"err")
    command.output(STDOUT, b"out")
    command.finish(Outcome(exit_code=4))
    events = client.receive(command.take())
    assert events[:2] == [Received(ids["stderr"], b"err"), Received(ids["stdout"], b"out")]
    status = next(e for e in events if isinstance(e, Received) and e.stream_id == ids["error"])
    assert json.loads(status.data)["reason"] == "NonZeroExitCode"
    # the outputs end before anybody hears how it ended
    assert events.index(status) > events.index(Ended(ids["stdout"]))
    assert events.index(status) > events.index(Ended(ids["stderr"]))
    assert {e.stream_id for e in events if isinstance(e, Ended)} == set(ids.values())


def test_a_stream_twice_or_of_no_known_kind_is_refused() -> None:
    command = SpdyCommand(4, ALL)
    client = Session(client=True)
    for name in ("error", "stdin", "stdin", "video", ""):
        client.open((("streamType", name),))
    command.receive(client.take())
    assert [type(e) for e in client.receive(command.take())] == [Accepted, Accepted] + [WasReset] * 3


def test_input_that_nobody_asked_for_is_taken_and_dropped() -> None:
    command = SpdyCommand(4, Wanted(stdout=True))
    client, ids = open_streams(command, "error", "stdin", "stdout")
    client.send(ids["stdin"], b"x" * 3_000_000)
    while data := client.take():
        assert command.receive(data) == []
        client.receive(command.take())
    assert client.waiting_bytes(ids["stdin"]) == 0
    channels, server = Channels(client=True), WebSocketCommand(4, Wanted(stdout=True))
    channels.send(STDIN, b"x")
    assert server.receive(channels.take()) == []


def test_a_client_that_keeps_windows_holds_output_back_and_gives_way_again() -> None:
    command = SpdyCommand(4, Wanted(stdout=True))
    client, ids = open_streams(command, "error", "stdout")
    command.output(STDOUT, b"x" * (3 << 20))
    received = 0
    while command.waiting_bytes():
        for event in client.receive(command.take()):
            assert isinstance(event, Received)
            received += len(event.data)
            client.consumed(ids["stdout"], len(event.data))
        command.receive(client.take())
    assert received > 0


@pytest.mark.parametrize(
    ("version", "base64_form"), [(1, False), (1, True), (4, False), (4, True), (5, False)]
)
def test_websocket_from_input_to_status(version: int, base64_form: bool) -> None:
    command = WebSocketCommand(version, ALL, base64_form=base64_form)
    client = Channels(base64_form=base64_form, close_signal=version >= 5, client=True)
    assert command.ready
    assert client.receive(command.take()) == [ChannelData(STDOUT, b"")]  # the sign that all is there
    client.send(STDIN, b"in")
    client.send(7, b"no such channel")
    client.send(RESIZE, size(24, 80))
    assert command.receive(client.take()) == [Input(b"in"), Resized(24, 80)]
    client.finish(STDIN)
    if version >= 5:
        assert command.receive(client.take()) == [InputEnded()]
        client.send(STDIN, b"after the end")
    assert command.receive(client.take()) == []
    command.output(STDOUT, b"out")
    command.output(STDERR, b"err")
    command.finish(Outcome(exit_code=4))
    events = client.receive(command.take())
    assert events[:2] == [ChannelData(STDOUT, b"out"), ChannelData(STDERR, b"err")]
    status = events[2]
    assert isinstance(status, ChannelData)
    assert status.channel == ERROR
    assert (b"NonZeroExitCode" in status.data) == (version >= 4)
    assert events[3:] == [PeerClosed(1000)]
    assert command.receive(client.take()) == [Gone()]


def test_an_old_client_is_told_nothing_of_a_success() -> None:
    command, client = WebSocketCommand(1, ALL), Channels(client=True)
    command.finish(Outcome())
    assert client.receive(command.take()) == [ChannelData(STDOUT, b""), PeerClosed(1000)]


def test_only_asked_for_output_is_sent() -> None:
    command, client = WebSocketCommand(4, Wanted(stderr=True)), Channels(client=True)
    command.output(STDOUT, b"out")
    command.output(STDERR, b"err")
    assert client.receive(command.take()) == [ChannelData(STDERR, b""), ChannelData(STDERR, b"err")]


@given(
    st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535)), max_size=5),
    st.integers(1, 40),
    st.sampled_from(["", "\n", " \r\n"]),
)
def test_sizes_come_out_however_they_are_cut(sizes: list[tuple[int, int]], cut: int, between: str) -> None:
    text = between.encode().join(size(*one) for one in sizes)
    reader = _Sizes()
    found: list[Event] = [s for at in range(0, len(text), cut) for s in reader.feed(text[at : at + cut])]
    assert found == [Resized(*one) for one in sizes]


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_what_is_no_size_is_left_out(pieces: list[bytes]) -> None:
    reader = _Sizes()
    for piece in pieces:
        for found in reader.feed(piece):
            assert 0 < found.rows <= 65535


def test_absurd_sizes_are_left_out_and_their_text_is_not_kept() -> None:
    reader = _Sizes()
    absurd = b'{"Width":0,"Height":3}{"Width":70000,"Height":3}[1]{"Width":"1","Height":2}"x"{}'
    assert reader.feed(absurd + size(2, 3)) == [Resized(2, 3)]
    assert reader.feed(b"[" * 100_000) == []
    assert len(reader._text) <= 1024
    assert reader.feed(b"[" * 100_000) == []
