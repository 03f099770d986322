# SPDX-License-Identifier: Apache-2.0
"""Owned descriptors are closed once, given away once, and complain when they are forgotten."""

from __future__ import annotations

import os

import pytest

from oakum.linux.fd import Fd, is_open, pipe


def test_closing_twice_closes_once() -> None:
    read_end, write_end = pipe()
    number = read_end.fileno()
    read_end.close()
    assert not is_open(number)
    again = os.dup(write_end.fileno())  # may well get the same number
    read_end.close()
    assert is_open(again)
    os.close(again)
    write_end.close()
    with pytest.raises(ValueError, match="closed"):
        write_end.fileno()


def test_a_stolen_descriptor_is_the_callers() -> None:
    read_end, write_end = pipe()
    with write_end:
        number = read_end.steal()
        assert read_end.closed
        read_end.close()
        assert is_open(number)
        os.close(number)


def test_a_context_closes_and_a_duplicate_lives_on() -> None:
    read_end, write_end = pipe()
    with read_end, write_end:
        copy = write_end.duplicate()
        assert not os.get_inheritable(copy.fileno())
    assert read_end.closed
    os.fstat(copy.fileno())
    copy.close()
    assert repr(copy) == "Fd(closed)"


def test_a_forgotten_descriptor_warns_and_is_closed() -> None:
    number = os.dup(1)
    forgotten = [Fd(number)]
    with pytest.warns(ResourceWarning, match="unclosed Fd"):
        forgotten.clear()
    assert not is_open(number)
