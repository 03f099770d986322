# SPDX-License-Identifier: Apache-2.0
"""The conversation between parent and child: messages, descriptors, and one side's end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from oakum.errors import Internal
from oakum.oci.wire import Channel


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_keep_their_boundaries_and_descriptors(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        ours.receive(wait=False)
    read_fd, write_fd = os.pipe()
    assert theirs.send("created", {"uid": 5}, (write_fd,))
    assert theirs.send("error", {"error": {"cause": "ß" * 1000}})
    os.close(write_fd)
    first, second = ours.receive(), ours.receive()
    assert first is not None
    assert second is not None
    assert (first.kind, first.body, second.kind) == ("created", {"uid": 5}, "error")
    with first.fds[0] as arrived:
        os.write(arrived.fileno(), b"x")
        assert not os.get_inheritable(arrived.fileno())
    assert os.read(read_fd, 5) == b"x"
    os.close(read_fd)


def test_the_end_of_the_other_side(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    theirs.close()
    assert ours.receive() is None
    assert ours.send("start") is False


def test_the_last_word_of_a_side_that_left_ours_unread_is_not_lost(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    assert ours.send("cgroup")
    assert theirs.send("error", {"error": {}})
    theirs.close()
    last = ours.receive()
    assert last is not None
    assert last.kind == "error"
    assert ours.receive() is None


def test_a_message_too_long_is_a_bug_of_ours(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(Internal):
        pair[0].send("x", {"text": "x" * 200_000})
