# SPDX-License-Identifier: Apache-2.0
"""The fields of tar headers: what writers write is read, what liars write is refused."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import DataLoss
from oakum.images.tarfields import (
    GnuSparseMap,
    PaxSparseMap,
    check_segments,
    parse_decimal,
    parse_number,
    parse_pax,
    parse_time_ns,
)


@given(st.integers(min_value=0, max_value=0o77777777777))
def test_octal_numbers(number: int) -> None:
    for text in (f"{number:011o}\0", f"{number:012o}", f"{number:o} ", f"  {number:o}\0"):
        assert parse_number(text.encode()) == number


@given(st.integers(min_value=-(1 << 60), max_value=1 << 60), st.sampled_from([8, 12]))
def test_numbers_in_base_256(number: int, width: int) -> None:
    try:
        field = tarfile.itn(number, width, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    except ValueError:
        return
    assert parse_number(field) == number


@pytest.mark.parametrize("field", [b"12x\0", b"-7\0\0", b"+7\0\0", b"0o7\0", b"1_0\0", b"89\0\0", b"1 2\0"])
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(DataLoss):
        parse_number(field)


def test_an_empty_number_is_zero_and_the_rest_after_a_nul_is_ignored() -> None:
    assert parse_number(bytes(8)) == parse_number(b"        ") == 0
    assert parse_number(b"17\0junk ") == 0o17


@given(st.binary(min_size=8, max_size=12))
def test_any_field_is_a_number_or_refused(field: bytes) -> None:
    try:
        assert isinstance(parse_number(field), int)
    except DataLoss:
        return


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1", 1_000_000_000),
        (b"1.5", 1_500_000_000),
        (b"1.123456789999", 1_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"0", 0),
        (b"1.", 1_000_000_000),
    ],
)
def test_times(text: bytes, expected: int) -> None:
    assert parse_time_ns(text) == expected


@pytest.mark.parametrize("text", [b"", b".", b"x", b"1e9", b"1.x", b"--1", b"9" * 30, b"nan"])
def test_what_is_no_time(text: bytes) -> None:
    with pytest.raises(DataLoss):
        parse_time_ns(text)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


keys = st.binary(min_size=1, max_size=20).filter(lambda key: b"=" not in key)


@given(st.lists(st.tuples(keys, st.binary(max_size=60))))
def test_pax_records_are_read_back(pairs: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(record(key, value) for key, value in pairs)
    assert parse_pax(data) == pairs
    assert parse_pax(data + bytes(7)) == pairs


@given(st.binary(max_size=80))
def test_any_bytes_are_records_or_refused(data: bytes) -> None:
    try:
        parse_pax(data)
    except DataLoss:
        return


@pytest.mark.parametrize(
    "data", [b"3 a", b"9999 path=x\n", b"10 path=x", b"8 path=x\n", b"5 =x\n", b"-5 a=b\n", b"0 a=b\n"]
)
def test_damaged_records_are_refused(data: bytes) -> None:
    with pytest.raises(DataLoss):
        parse_pax(data)


def test_decimals_are_plain_digits() -> None:
    assert parse_decimal(b"42", "x") == 42
    for value in (b"", b"-1", b"+1", b" 1", b"1_0", b"9" * 21):
        with pytest.raises(DataLoss, match="x is"):
            parse_decimal(value, "x")


@pytest.mark.parametrize(
    ("segments", "size", "stored"),
    [
        ([(0, 10), (5, 10)], 100, 20),
        ([(50, 10), (0, 10)], 100, 20),
        ([(95, 10)], 100, 10),
        ([(0, 10)], 100, 11),
        ([(0, 10)], 5, 10),
    ],
)
def test_maps_that_overlap_leave_the_file_or_lie_are_refused(
    segments: list[tuple[int, int]], size: int, stored: int
) -> None:
    with pytest.raises(DataLoss):
        check_segments(segments, size, stored)


def test_empty_pieces_of_a_map_are_dropped() -> None:
    assert check_segments([(0, 4), (8, 0), (100, 0)], 100, 4) == [(0, 4)]


def test_a_pax_map_may_cross_blocks() -> None:
    sparse = PaxSparseMap(4096)
    numbers = [100]
    for piece in range(100):
        numbers += [piece * 1000, 1]
    text = b"".join(b"%d\n" % number for number in numbers)
    text += bytes(-len(text) % 512)
    blocks = [text[start : start + 512] for start in range(0, len(text), 512)]
    assert [sparse.take(block) for block in blocks] == [False] * (len(blocks) - 1) + [True]
    assert len(sparse.segments) == 100
    assert sparse.stored == 4096 - len(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PaxSparseMap(1 << 40),
        lambda: GnuSparseMap(bytes(512), 0),
    ],
)
@given(blocks=st.lists(st.binary(min_size=512, max_size=512), min_size=1, max_size=4))
def test_any_map_is_read_or_refused(make: Callable[[], Any], blocks: list[bytes]) -> None:
    sparse = make()
    try:
        for block in blocks:
            if sparse.take(block):
                break
    except DataLoss:
        return
    assert all(offset >= 0 and length >= 0 for offset, length in sparse.segments)
