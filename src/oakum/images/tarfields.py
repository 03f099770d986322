# SPDX-License-Identifier: Apache-2.0
"""The fields of tar headers: numbers, PAX records, maps of sparse files. Pure; `tarstream.py` reads the stream.

Source: tar(5); POSIX pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from oakum.errors import DataLoss

BLOCK: Final = 512
SIZE_LIMIT: Final = 1 << 60
_SEGMENT_LIMIT: Final = 1 << 17
_MAP_LINE_LIMIT: Final = 64

Segment = tuple[int, int]  # offset and length of a piece of a sparse file


def broken(cause: str) -> DataLoss:
    """The error for a tar that is none."""
    return DataLoss("read tar", "", cause)


def parse_number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's base 256."""
    digits = field.strip(b" \0")
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            raise broken(f"{field!r} is not an octal number") from None
    if field[0] & 0x80:
        # The marker bit is not part of the number, the next one is its sign.
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():
        raise broken(f"{field!r} is not a number")
    try:
        return int(digits, 8)
    except ValueError:
        raise broken(f"{field!r} is not an octal number") from None


def parse_decimal(value: bytes, what: str) -> int:
    """A number of a PAX record."""
    if not value.isdigit() or len(value) > 20:
        raise broken(f"{what} is {value[:40]!r}")
    return int(value)


def parse_time_ns(value: bytes) -> int:
    """The nanoseconds of a PAX time: seconds with an optional fraction, maybe before 1970."""
    negative = value.startswith(b"-")
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 20 or (fraction and not fraction.isdigit()):
        raise broken(f"a time is {value[:40]!r}")
    nanoseconds = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header, in their order: each is a length, a key, "=", a value and a line feed."""
    records: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 21)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            if not data[position:].strip(b"\0"):
                break  # some writers pad with zeros
            raise broken("an extended header has a record without a length")
        end = position + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
            raise broken("an extended header has a damaged record")
        records.append((key, value))
        position = end
    return records


def check_segments(segments: list[Segment], size: int, stored: int) -> list[Segment]:
    """A sparse file's pieces if they are in order, inside `size`, and `stored` bytes in all; empty ones left out."""
    end = 0
    total = 0
    for offset, length in segments:
        if offset < end or offset + length > size:
            raise broken("a sparse file's map is out of order or leaves the file")
        end = offset + length
        total += length
    if total != stored:
        raise broken(f"a sparse file stores {stored} bytes, its map says {total}")
    return [segment for segment in segments if segment[1]]


class SparseMap(ABC):
    """A sparse file's map that comes in blocks: behind a GNU header, or before the data of PAX format 1.0."""

    def __init__(self, stored: int) -> None:
        self.segments: list[Segment] = []
        self.stored = stored

    @abstractmethod
    def take(self, block: bytes) -> bool:
        """Read one more block; True when it was the last of the map."""
        ...  # pragma: no cover

    def _add(self, offset: int, length: int) -> None:
        if len(self.segments) >= _SEGMENT_LIMIT:
            raise broken(f"a sparse file has more than {_SEGMENT_LIMIT} pieces")
        if not (0 <= offset <= SIZE_LIMIT and 0 <= length <= SIZE_LIMIT):
            raise broken("a sparse file's map has a number out of range")
        self.segments.append((offset, length))


class GnuSparseMap(SparseMap):
    """The map in and behind a header of type S."""

    def __init__(self, header: bytes, stored: int) -> None:
        super().__init__(stored)
        self._read(header[386 : 386 + 4 * 24])
        self.more = header[482] != 0

    def take(self, block: bytes) -> bool:
        """Read one more block; True when it was the last of the map."""
        self._read(block[: 21 * 24])
        return block[504] == 0

    def _read(self, pairs: bytes) -> None:
        for start in range(0, len(pairs), 24):
            if pairs[start] == 0:
                break
            self._add(parse_number(pairs[start : start + 12]), parse_number(pairs[start + 12 : start + 24]))


class PaxSparseMap(SparseMap):
    """The map of format 1.0: decimal lines before the data, first how many pieces, padded to whole blocks."""

    def __init__(self, stored: int) -> None:
        super().__init__(stored)
        self._text = b""
        self._wanted = -1
        self._offset = -1

    def take(self, block: bytes) -> bool:
        """Read one more block; True when it was the last of the map."""
        self.stored -= BLOCK
        if self.stored < 0:
            raise broken("a sparse file's map is longer than its data")
        lines = (self._text + block).split(b"\n")
        self._text = lines.pop()
        for line in lines:
            number = parse_decimal(line, "a line of a sparse file's map")
            if self._wanted < 0:
                self._wanted = number
            elif self._offset < 0:
                self._offset = number
            else:
                self._add(self._offset, number)
                self._offset = -1
            if self._wanted == len(self.segments):
                return True
        if len(self._text) > _MAP_LINE_LIMIT:
            raise broken("a sparse file's map is damaged")
        return False
