# SPDX-License-Identifier: Apache-2.0
"""What Docker's `local` log driver writes, turned into lines of the CRI form. Pure; same input, same output.

    record   length (4 bytes, big-endian) · entry · the same length again
    entry    protobuf: 1 source · 2 time in ns · 3 line without its newline · 4 partial · 5 {1 last}

A record that was torn by a full disk does not keep those behind it from being read.
Source: moby daemon/logger/local and api/types/plugins/logdriver/entry.proto (20.10 to 28).
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

_LONGEST_BYTES: Final = 1 << 20
_STREAMS: Final = (b"stdout", b"stderr")
# how every entry begins: its source
_HEADS: Final = tuple(b"\x0a\x06" + stream for stream in _STREAMS)
_HEAD_BYTES: Final = 4 + 8
# of nine bytes: the bit that says that more follow, set in all but the last
_MORE: Final = int("80" * 9, 16)
_MORE_OF_NINE: Final = int("80" * 8, 16)


class Encoded(NamedTuple):
    """Log lines made of the first `consumed` bytes; `damaged` of these were no records."""

    lines: bytes
    consumed: int
    damaged: int


class Damaged(ValueError):
    """Not a log entry."""


class Encoder:
    """Remembers the last second's text, which most lines share."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def encode(self, data: bytes) -> Encoded:
        """The lines of all whole records in `data`, which begins with a record."""
        at = damaged = 0
        lines: list[bytes] = []
        while (end := _end_of_record(data, at)) is not None:
            try:
                if not end:
                    raise Damaged("no record begins here")
                lines.append(self._line(data[at + 4 : end - 4]))
                at = end
            except Damaged:
                start, at = at, _next_record(data, at)
                damaged += at - start
        return Encoded(b"".join(lines), at, damaged)

    def _line(self, entry: bytes) -> bytes:
        # as nearly all are: times of our age have nine bytes, the line ends the entry
        if len(entry) > 19 and entry[8] == 0x10 and entry[18] == 0x1A and entry[19] == len(entry) - 20 < 0x80:
            time_ns, source, line, partial = _nine_bytes(entry[9:18]), entry[2:8], entry[20:], False
        else:
            time_ns, source, line, partial = parse_entry(entry)
        second, fraction = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            t = time.gmtime(second)
            self._second = second
            self._text = b"%04d-%02d-%02dT%02d:%02d:%02d." % t[:6]
        return b"%s%09dZ %s %s %s\n" % (self._text, fraction, source, b"P" if partial else b"F", line)


def first_time_ns(data: bytes) -> int:
    """The time of the first record in a file that begins with `data`; 0 when there is none."""
    if _end_of_record(data, 0) == 0:
        return 0
    try:
        return parse_entry(data[4:], head_only=True)[0]
    except Damaged:
        return 0


def parse_entry(entry: bytes, *, head_only: bool = False) -> tuple[int, bytes, bytes, bool]:
    """Time, source, line, and whether the line goes on in the next entry. Raises Damaged."""
    at, time_ns, source, line, partial, last = 0, 0, b"", b"", False, False
    while at < len(entry):
        key = entry[at]
        number, at = _varint(entry, at + 1)
        if key in (0x10, 0x20):
            if key == 0x10:
                time_ns = number
                if head_only:
                    break
            else:
                partial = bool(number)
            continue
        if key & 7 == 0:
            continue
        if key & 7 != 2:
            raise Damaged(f"field {key}")
        value = entry[at : at + number]
        at += number
        if key == 0x0A:
            source = value
        elif key == 0x1A:
            line = value
        elif key == 0x2A:
            last = value[:2] == b"\x08\x01"
    if source not in _STREAMS or time_ns <= 0 or (at != len(entry) and not head_only):
        raise Damaged("not an entry")
    return time_ns, source, line, partial and not last


def _nine_bytes(data: bytes) -> int:
    """A number of nine bytes, seven bits in each. Raises Damaged."""
    value = int.from_bytes(data, "little")
    if value & _MORE != _MORE_OF_NINE:
        raise Damaged("a number of another length")
    value = (value & 0x7F007F007F007F007F) | (value & 0x7F007F007F007F00) >> 1
    value = (value & 0x3FFF00003FFF00003FFF) | (value & 0x3FFF00003FFF0000) >> 2
    return (value & 0xFFFFFFF) | (value >> 32 & 0xFFFFFFF) << 28 | (value >> 64) << 56


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Damaged("a number without end")


def _end_of_record(data: bytes, at: int) -> int | None:
    """Where the record at `at` ends; 0 when there cannot be one, None when more bytes must come first."""
    if at + _HEAD_BYTES > len(data):
        return None
    length = int.from_bytes(data[at : at + 4], "big")
    if not 8 < length <= _LONGEST_BYTES or data[at + 4 : at + _HEAD_BYTES] not in _HEADS:
        return 0
    end = at + 8 + length
    if end > len(data):
        return None
    return end if data[end - 4 : end] == data[at : at + 4] else 0


def _next_record(data: bytes, at: int) -> int:
    """Where behind `at` a record may begin."""
    found = min((place for head in _HEADS if (place := data.find(head, at + 5)) >= 0), default=-1)
    # the first bytes of the next one may be the last that are here
    return found - 4 if found >= 0 else max(at + 1, len(data) - _HEAD_BYTES + 1)
