# SPDX-License-Identifier: Apache-2.0
"""Sizes and ages that people read, and text from outside that must not move their cursor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.cli import text


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (4_270_000, "4.27MB"), (999_999, "1000kB"), (10**9, "1GB")],
)
def test_sizes(size: int, words: str) -> None:
    assert text.human_size(size) == words


def test_memory_is_binary() -> None:
    assert text.human_memory(512 << 20) == "512MiB"
    assert text.human_memory(3 << 29) == "1.5GiB"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (3600, "60 minutes"),
        (7200, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 21, "3 weeks"),
        (86400 * 800, "2 years"),
        (-5, "less than a second"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert text.human_duration(seconds) == words


def test_ages_and_times() -> None:
    assert text.human_age(0, now_ns=10**18) == "-"
    assert text.human_age(10**18 - 5 * 10**9, now_ns=10**18) == "5 seconds ago"
    assert text.iso_time(1767323045_000000001) == "2026-01-02T03:04:05.000000001Z"
    assert text.iso_time(0) == ""


def test_ids() -> None:
    assert text.short_id("sha256:" + "ab" * 32) == "abababababab"


def test_a_label_cannot_clear_the_screen() -> None:
    assert text.printable("\x1b[2Jhello\r\n") == "\\x1b[2Jhello\\r\\n"
    assert text.printable("grüße ☃") == "grüße ☃"


@given(st.text())
def test_nothing_unprintable_gets_through(value: str) -> None:
    assert text.printable(value).isprintable()


@given(st.text(max_size=50), st.integers(1, 60))
def test_shortened_text_fits(value: str, length: int) -> None:
    assert len(text.shorten(value, length)) <= length
