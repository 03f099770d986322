# SPDX-License-Identifier: Apache-2.0
"""The serving side of a client: what happens when the client has gone."""

from typing import Any

from oakum.linux import sockets
from oakum.shim import wire
from oakum.shim.connection import Connection
from oakum.shim.loop import Loop


def test_an_answer_that_cannot_be_delivered_is_told_like_a_client_that_has_gone() -> None:
    loop = Loop()
    ours, theirs = sockets.stream_pair()
    told: list[str] = []

    def handle(connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
        connection.when_gone = lambda: told.append("gone")
        theirs.close()  # after the request was read, before its answer
        connection.answer({})
        loop.stop()

    connection = Connection(loop, ours, handle, lambda _connection: told.append("closed"))
    sockets.send_frame(theirs, wire.encode({"op": "ping"}))
    loop.run()
    loop.abandon()
    assert told == ["closed", "gone"]
    assert not connection.open


def test_a_delivered_answer_takes_the_responsibility_away() -> None:
    loop = Loop()
    ours, theirs = sockets.stream_pair()
    told: list[str] = []

    def handle(connection: Connection, _request: dict[str, Any], _fds: list[int]) -> None:
        connection.when_gone = lambda: told.append("gone")
        connection.answer({})
        loop.stop()

    connection = Connection(loop, ours, handle, lambda _connection: told.append("closed"))
    sockets.send_frame(theirs, wire.encode({"op": "ping"}))
    loop.run()
    theirs.close()
    connection.close()
    loop.abandon()
    assert told == ["closed"]
