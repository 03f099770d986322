# SPDX-License-Identifier: Apache-2.0
"""Records of Docker's log driver, positions and stream frames: whatever comes, in whatever pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oakum.docker.position import Position, encode, parse
from oakum.docker.records import Encoder, first_time_ns
from oakum.docker.stdcopy import Demultiplexer
from oakum.engine.logs import parse_line
from tests.unit.docker.local_log import record

T = 1_790_000_000_123_456_789
RECORDS = st.lists(
    st.tuples(
        st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")),
        st.integers(2**60, 2**62),
        st.sampled_from([b"stdout", b"stderr"]),
        st.sampled_from([(False, False), (True, False), (True, True)]),
    ),
    max_size=8,
)


def _records(found: list[tuple[bytes, int, bytes, tuple[bool, bool]]]) -> list[bytes]:
    return [record(line, t, stream=s, partial=p, last=last) for line, t, s, (p, last) in found]


def test_a_line_has_its_time_its_stream_and_its_tag() -> None:
    data = record(b"a", T) + record(b"b", T + 1, stream=b"stderr", partial=True)
    data += record(b"c\xff\0", T + 2, partial=True, last=True)
    assert Encoder().encode(data).lines == (
        b"2026-09-21T14:13:20.123456789Z stdout F a\n"
        b"2026-09-21T14:13:20.123456790Z stderr P b\n"
        b"2026-09-21T14:13:20.123456791Z stdout F c\xff\0\n"
    )
    assert first_time_ns(data) == first_time_ns(data[:64]) == T
    assert first_time_ns(b"") == first_time_ns(b"x" * 64) == 0


@given(RECORDS, st.data())
def test_in_whatever_pieces_it_is_read_the_lines_are_the_same(
    found: list[tuple[bytes, int, bytes, tuple[bool, bool]]], data: st.DataObject
) -> None:
    whole = b"".join(_records(found))
    expected = Encoder().encode(whole)
    assert (expected.consumed, expected.damaged) == (len(whole), 0)
    lines = [parse_line(line) for line in expected.lines.split(b"\n")[:-1]]
    assert [(e.data, e.stream.encode(), e.timestamp_ns) for e in lines if e] == [
        (line, s, t) for line, t, s, _ in found
    ]
    at, out = 0, b""
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
    for end in (*sorted(cuts), len(whole)):
        encoded = Encoder().encode(whole[at:end])
        out += encoded.lines
        at += encoded.consumed
    assert out == expected.lines


@given(st.binary(max_size=200), RECORDS)
def test_anything_at_all_is_survived_and_what_follows_is_read(
    rubbish: bytes, found: list[tuple[bytes, int, bytes, tuple[bool, bool]]]
) -> None:
    # a full disk tears a record; Docker writes the next one right behind
    torn = record(b"", T)[:15]
    after = b"".join(_records(found))
    encoded = Encoder().encode(torn + after)
    if found:
        assert encoded.lines == Encoder().encode(after).lines
        assert encoded.damaged == len(torn)
    Encoder().encode(rubbish)
    assert Encoder().encode(rubbish + torn).consumed <= len(rubbish + torn)


@given(st.builds(Position, *[st.integers(0, 2**63)] * 6, st.integers(-(2**63), 2**63)))
def test_a_position_is_read_as_it_was_written(position: Position) -> None:
    data = encode(position)
    assert parse(data) == position
    assert len(data) == 256
    assert parse(data[:14]) is None
    assert parse(data.replace(b"1", b"2", 1)) is None
    assert parse(b"") is None


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.binary(min_size=1, max_size=20))), st.data())
def test_frames_are_cut_however_they_come(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    sent = b"".join(bytes((s, 0, 0, 0)) + len(p).to_bytes(4, "big") + p for s, p in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    demultiplexer = Demultiplexer()
    got: dict[int, bytes] = {}
    for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        for stream, piece in demultiplexer.feed(sent[begin:end]):
            got[stream] = got.get(stream, b"") + piece
    assert got == {s: b"".join(p for t, p in frames if t == s) for s in {s for s, _ in frames}}
