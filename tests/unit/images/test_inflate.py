# SPDX-License-Identifier: Apache-2.0
"""Whatever a layer is packed with comes out whole, however its pieces arrive, and damage is told."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from oakum.errors import DataLoss
from oakum.images.inflate import inflater_for

DATA = os.urandom(200_000) + bytes(3_000_000) + b"text " * 50_000


def skippable(size: int) -> bytes:
    return b"\x53\x2a\x4d\x18" + size.to_bytes(4, "little") + bytes(size)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1),
    "gzip members": lambda data: (
        gzip.compress(data[:99]) + gzip.compress(b"") + gzip.compress(data[99:]) + bytes(512)
    ),
    "zstd": zstd,
    "zstd frames": lambda data: skippable(7) + zstd(data[:99]) + zstd(data[99:]) + skippable(100),
}


def inflate(blob: bytes, step: int) -> bytes:
    inflater = inflater_for(blob[:4])
    out = [
        piece for start in range(0, len(blob), step) for piece in inflater.feed(blob[start : start + step])
    ]
    inflater.finish()
    return b"".join(out)


@pytest.mark.parametrize("kind", list(PACKERS))
@pytest.mark.parametrize("step", [4, 1000, 131_072, 10_000_000])
def test_all_kinds_in_all_pieces(kind: str, step: int) -> None:
    data = DATA if step > 100 else DATA[:5000]
    assert inflate(PACKERS[kind](data), step) == data


@given(st.binary(max_size=3000), st.sampled_from(list(PACKERS)), st.integers(4, 500))
def test_any_data(data: bytes, kind: str, step: int) -> None:
    if kind != "plain":
        assert inflate(PACKERS[kind](data), step) == data


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [4, 10, 1000, -1, -9])
def test_a_cut_stream_is_told(kind: str, cut: int) -> None:
    with pytest.raises(DataLoss):
        inflate(PACKERS[kind](DATA)[:cut], 65_536)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@given(position=st.integers(4, 199_000), value=st.integers(1, 255))
def test_damage_is_told_or_changes_the_data(kind: str, position: int, value: int) -> None:
    data = DATA[:200_000]
    blob = bytearray(PACKERS[kind](data))
    blob[position] ^= value
    try:
        found = inflate(bytes(blob), 65_536)
    except DataLoss:
        return
    # Neither format checks every bit; the digest of the layer does.
    assert kind == "zstd" or position < 10 or found == data


@pytest.mark.parametrize(("kind", "limit"), [("gzip", 5 << 20), ("zstd", 130 << 20)])
def test_one_piece_of_output_is_bounded(kind: str, limit: int) -> None:
    blob = PACKERS[kind](bytes(700 << 20))
    inflater = inflater_for(blob[:4])
    longest = total = 0
    for start in range(0, len(blob), 131_072):
        for piece in inflater.feed(blob[start : start + 131_072]):
            longest = max(longest, len(piece))
            total += len(piece)
    assert total == 700 << 20
    assert longest <= limit
