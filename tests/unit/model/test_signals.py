# SPDX-License-Identifier: Apache-2.0
"""Signal names as users write them, real-time ones included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import InvalidArgument
from oakum.model.signals import parse_signal, signal_name


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigkill", 9),
        (" 15 ", 15),
        ("QUIT", 3),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-2", 62),
        ("SIGRTMAX", 64),
        ("64", 64),
        ("POLL", 29),
    ],
)
def test_what_users_write(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "SIG", "0", "65", "-1", "RTMIN-1", "RTMAX+1", "RTMIN+31", "NOPE", "DFL", "SIG_DFL", "٣", "BLOCK"],
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no such signal"):
        parse_signal(text)


@given(st.integers(1, 64))
def test_names_lead_back_to_their_numbers(number: int) -> None:
    assert parse_signal(signal_name(number)) == number


@given(st.text())
def test_any_text_is_a_signal_or_is_refused(text: str) -> None:
    try:
        assert 1 <= parse_signal(text) <= 64
    except InvalidArgument:
        pass
