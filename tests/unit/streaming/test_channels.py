# SPDX-License-Identifier: Apache-2.0
"""Channels in a WebSocket: plain and base64, in pieces, with the close signal; rubbish closes the connection."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from oakum.streaming.channels import ChannelClosed, ChannelData, Channels
from oakum.streaming.websocket import NORMAL_CLOSURE, PROTOCOL_ERROR, PeerClosed, WebSocket


def joined(events: list[ChannelData | ChannelClosed | PeerClosed]) -> list[tuple[int, bytes]]:
    """Whole messages out of pieces."""
    found: list[tuple[int, bytes]] = []
    held = b""
    for event in events:
        assert isinstance(event, ChannelData)
        held += event.data
        if event.message_over:
            found.append((event.channel, held))
            held = b""
    return found


@given(
    st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=200)), max_size=8),
    st.booleans(),
    st.integers(1, 90),
    st.booleans(),
)
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    messages: list[tuple[int, bytes]], base64_form: bool, cut: int, from_client: bool
) -> None:
    sender = Channels(base64_form=base64_form, client=from_client)
    receiver = Channels(base64_form=base64_form, client=not from_client)
    for channel, data in messages:
        sender.send(channel, data)
    out = sender.take()
    events = [e for at in range(0, len(out), cut) for e in receiver.receive(out[at : at + cut])]
    assert joined(events) == messages


@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans(), st.booleans())
def test_rubbish_closes_and_nothing_else_happens(
    pieces: list[bytes], base64_form: bool, close_signal: bool
) -> None:
    server = Channels(base64_form=base64_form, close_signal=close_signal)
    over = False
    for piece in pieces:
        events = server.receive(piece)
        assert not (over and events)
        over = over or any(isinstance(event, PeerClosed) for event in events)
    server.take()


def test_what_comes_after_nonsense_is_not_looked_at() -> None:
    server = Channels(base64_form=True)
    assert server.receive(b"\x01") == []
    assert server.receive(b"\x82\0\0\0\0\0") == [PeerClosed(1002)]
    assert server.receive(b"\0") == []


def test_the_form_of_each_message_is_as_the_sub_protocols_say() -> None:
    plain, text = Channels(), Channels(base64_form=True)
    plain.send(1, b"out")
    text.send(2, b"err")
    assert plain.take() == b"\x82\x04\x01out"
    assert text.take() == b"\x81\x05" + b"2" + base64.b64encode(b"err")


def test_a_client_of_version_5_says_that_its_input_has_ended() -> None:
    client, server = Channels(close_signal=True, client=True), Channels(close_signal=True)
    client.send(0, b"last words")
    client.finish(0)
    assert server.receive(client.take()) == [ChannelData(0, b"last words"), ChannelClosed(0)]
    # before version 5 there is no such signal, and a channel of that number is a channel
    old = Channels()
    client.finish(0)
    assert old.receive(client.take()) == [ChannelData(255, b"\x00")]


def test_a_message_in_fragments_belongs_to_one_channel() -> None:
    client = Connection(ConnectionType.CLIENT)
    data = client.send(BytesMessage(data=b"\x00one ", message_finished=False))
    data += client.send(BytesMessage(data=b"two ", message_finished=False))
    data += client.send(BytesMessage(data=b"", message_finished=False))
    data += client.send(BytesMessage(data=b"three"))
    assert joined(list(Channels().receive(data))) == [(0, b"one two three")]
    digits = base64.b64encode(b"one two three").decode()
    parts = ["0", digits[:3], digits[3:7], digits[7:]]
    data = b"".join(client.send(TextMessage(data=part, message_finished=part is parts[-1])) for part in parts)
    assert joined(list(Channels(base64_form=True).receive(data))) == [(0, b"one two three")]


@pytest.mark.parametrize("text", ["0%%%%", "0YWJ", "xYWJj", "é"])
def test_what_is_no_base64_ends_the_connection(text: str) -> None:
    server = Channels(base64_form=True)
    data = Connection(ConnectionType.CLIENT).send(TextMessage(data=text))
    assert server.receive(data) == [PeerClosed(PROTOCOL_ERROR)]
    server.send(1, b"nobody hears this")
    assert server.take() == b"\x88\x02\x03\xea"


def test_both_sides_say_goodbye() -> None:
    client, server = WebSocket(client=True), WebSocket()
    server.close()
    assert client.receive(server.take()) == [PeerClosed(NORMAL_CLOSURE)]
    assert server.receive(client.take()) == [PeerClosed(NORMAL_CLOSURE)]
    server.send(b"too late")
    server.ping()
    assert server.take() == b""
    assert server.receive(b"anything") == []


def test_signs_of_life_are_answered_between_the_pieces_of_a_message() -> None:
    client, server = WebSocket(client=True), WebSocket()
    client.send(b"x" * 10)
    client.ping()
    pieces = server.receive(client.take())
    assert pieces[-1] == (b"x" * 10, True, True, False)
    assert server.take() == b"\x8a\x00"
    assert client.receive(b"\x8a\x00") == []
