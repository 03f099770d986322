# SPDX-License-Identifier: Apache-2.0
"""The user's terminal: raw while a container has it, as it was afterwards; and the keys that leave."""

from __future__ import annotations

import os
import pty
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.cli.terminal import DEFAULT_DETACH_KEYS, DetachKeys, RawMode, parse_detach_keys, size
from oakum.errors import InvalidArgument


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_raw_mode_ends_with_the_context(terminal) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with RawMode(slave):
        now = termios.tcgetattr(slave)
        assert not now[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert termios.tcgetattr(slave) == before


def test_raw_mode_ends_after_an_error_too(terminal) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with pytest.raises(RuntimeError), RawMode(slave):
        raise RuntimeError("torn apart")
    assert termios.tcgetattr(slave) == before


def test_a_pipe_is_left_alone() -> None:
    read_fd, write_fd = os.pipe()
    with RawMode(read_fd):
        os.write(write_fd, b"x")
        assert os.read(read_fd, 1) == b"x"
    os.close(read_fd)
    os.close(write_fd)


def test_what_was_typed_ahead_reaches_the_container(terminal) -> None:
    master, slave = terminal
    os.write(master, b"typed ahead\n")
    with RawMode(slave):
        assert os.read(slave, 100) == b"typed ahead\n"


def test_sizes(terminal) -> None:
    _, slave = terminal
    termios.tcsetwinsize(slave, (41, 133))
    assert size(slave) == (41, 133)
    read_fd, write_fd = os.pipe()
    assert size(read_fd) == (0, 0)
    os.close(read_fd)
    os.close(write_fd)


def test_detach_keys_by_name() -> None:
    assert parse_detach_keys(DEFAULT_DETACH_KEYS) == b"\x10\x11"
    assert parse_detach_keys("ctrl-@,ctrl-[,x,ctrl-_") == b"\x00\x1bx\x1f"
    assert parse_detach_keys("") == b""
    for text in ("ctrl-", "ctrl-1", "alt-x", "ab", "ctrl-p,é"):
        with pytest.raises(InvalidArgument):
            parse_detach_keys(text)


def test_the_sequence_detaches_and_is_not_passed_on() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"ls\n\x10\x11rm -rf /\n") == (b"ls\n", True)


def test_the_sequence_may_come_in_pieces() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"a\x10") == (b"a", False)
    assert keys.feed(b"\x11") == (b"", True)


def test_a_beginning_that_goes_on_otherwise_is_passed_on() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"x") == (b"\x10x", False)
    assert keys.feed(b"\x10\x10\x11") == (b"\x10", True)


def test_without_keys_everything_passes() -> None:
    assert DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


@given(
    st.lists(st.binary(max_size=6), max_size=12), st.sampled_from([b"\x10\x11", b"aab", b"aa", b"abab", b"x"])
)
def test_detaching_is_found_wherever_the_reads_are_cut(pieces: list[bytes], sequence: bytes) -> None:
    typed = b"".join(pieces)
    keys = DetachKeys(sequence)
    passed, detached = bytearray(), False
    for piece in pieces:
        more, detached = keys.feed(piece)
        passed += more
        if detached:
            break
    position = typed.find(sequence)
    assert detached == (position >= 0)
    if detached:
        assert bytes(passed) == typed[:position]
    else:
        # only a beginning of the sequence may still be held back
        assert typed.startswith(bytes(passed))
        assert sequence.startswith(typed[len(passed) :])
