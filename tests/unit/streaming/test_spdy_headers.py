# SPDX-License-Identifier: Apache-2.0
"""Header blocks: what is packed is unpacked, and nothing that a peer sends takes more room than it may."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.streaming.spdy.headers import DICTIONARY, MAX_BLOCK_BYTES, BadHeaders, HeaderReader, HeaderWriter

_NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30).map(str.lower)
_VALUES = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=60)
_HEADERS = st.dictionaries(_NAMES, st.lists(_VALUES, min_size=1, max_size=3), max_size=8)


def test_the_dictionary_is_the_one_that_the_protocol_names() -> None:
    # the checksum that every stream of a SPDY/3 peer begins with
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


@given(st.lists(_HEADERS, max_size=6))
def test_blocks_of_one_connection_come_out_as_they_went_in(blocks: list[dict[str, list[str]]]) -> None:
    writer, reader = HeaderWriter(), HeaderReader()
    for headers in blocks:
        pairs = tuple((name, value) for name, values in headers.items() for value in values)
        assert reader.unpack(writer.pack(pairs)) == pairs


def test_a_known_block_of_another_implementation() -> None:
    plain = struct.pack(">I", 1) + struct.pack(">I", 10) + b"StreamType" + struct.pack(">I", 5) + b"stdin"
    other = zlib.compressobj(9, zdict=DICTIONARY)
    block = other.compress(plain) + other.flush(zlib.Z_SYNC_FLUSH)
    assert HeaderReader().unpack(block) == (("streamtype", "stdin"),)


@given(st.binary(max_size=200))
def test_rubbish_is_refused_and_nothing_else_happens(block: bytes) -> None:
    try:
        HeaderReader().unpack(block)
    except BadHeaders:
        pass


@given(st.binary(max_size=200))
def test_rubbish_inside_sound_compression_is_refused(plain: bytes) -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)
    try:
        headers = HeaderReader().unpack(block)
    except BadHeaders:
        return
    assert struct.unpack_from(">I", plain)[0] <= len(headers)


@pytest.mark.parametrize("size", [MAX_BLOCK_BYTES, 50 << 20])
def test_a_block_that_swells_is_refused(size: int) -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = deflate.compress(b"\0" * size) + deflate.flush(zlib.Z_SYNC_FLUSH)
    assert len(block) < size // 200
    with pytest.raises(BadHeaders):
        HeaderReader().unpack(block)


def test_too_many_headers_and_one_without_a_name_are_refused() -> None:
    def block(plain: bytes) -> bytes:
        deflate = zlib.compressobj(zdict=DICTIONARY)
        return deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)

    with pytest.raises(BadHeaders, match="1000 headers"):
        HeaderReader().unpack(block(struct.pack(">I", 1000)))
    with pytest.raises(BadHeaders, match="without a name"):
        HeaderReader().unpack(block(struct.pack(">III", 1, 0, 0)))
    with pytest.raises(BadHeaders, match="after the last"):
        HeaderReader().unpack(block(struct.pack(">II", 0, 7)))
