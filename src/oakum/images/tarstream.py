# SPDX-License-Identifier: Apache-2.0
"""A streaming tar reader for hostile layers: chunks in, entries and file data out, without a copy of the data.

Understands ustar, GNU (long names, sparse, base-256 numbers) and PAX (also sparse 0.0, 0.1, 1.0). It checks what tar
says about itself; whether a name may be used is the sink's business. Global PAX headers are read and ignored, as other
unpackers do. Written for speed: this runs once for each file of an image, and a chunk usually holds many files.

Source: tar(5); POSIX pax, "ustar Interchange Format".
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Protocol
from zlib import adler32

from oakum.images.tarfields import (
    BLOCK,
    SIZE_LIMIT,
    GnuSparseMap,
    PaxSparseMap,
    Segment,
    SparseMap,
    broken,
    check_segments,
    parse_decimal,
    parse_number,
    parse_pax,
    parse_time_ns,
)

_ZEROS: Final = bytes(BLOCK)
_SPECIAL_LIMIT: Final = 1 << 20  # bytes of a long name or PAX header
_ADLER_BASE: Final = 65521
_SPACES_SUM: Final = sum(b" " * 8)
_XATTR: Final = b"SCHILY.xattr."

# name mode uid gid size mtime checksum type linkname magic ... devmajor devminor prefix
_HEADER: Final = Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")


class Entry:
    """One member of a tar. `kind` is b"0" to b"6" as ustar numbers them; every regular file is b"0".

    `mtime_ns` since the epoch; `segments` is None but for sparse files, whose `size` is the one that programs see.
    """

    __slots__ = (
        "device",
        "gid",
        "kind",
        "link",
        "mode",
        "mtime_ns",
        "name",
        "segments",
        "size",
        "uid",
        "xattrs",
    )

    def __init__(  # noqa: PLR0917 - one call, for each file of an image: keywords cost time
        self, name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime_ns: int
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime_ns = mtime_ns
        self.link = b""
        self.device: tuple[int, int] = (0, 0)
        self.xattrs: dict[str, bytes] | None = None
        self.segments: list[Segment] | None = None


class Sink(Protocol):
    """Takes what the reader finds, in the tar's order."""

    def whole_file(self, entry: Entry, data: memoryview) -> None:
        """A regular file whose content is at hand."""
        ...

    def begin_file(self, entry: Entry) -> None:
        """A regular file whose content follows in pieces."""
        ...

    def file_data(self, data: memoryview) -> None:
        """The next piece; for a sparse file, of its segments one after the other."""
        ...

    def end_file(self) -> None:
        """The file is complete."""
        ...

    def other(self, entry: Entry) -> None:
        """Anything that is not a regular file."""
        ...


class _Extensions:
    """What extended headers say about the entry that follows."""

    __slots__ = ("length", "link", "name", "records")

    def __init__(self) -> None:
        self.length = 0
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.records: list[tuple[bytes, bytes]] = []


class TarReader:
    """Reads one tar: `feed` it chunks, then `finish`. Raises DataLoss for what is no tar."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._carry = b""  # the beginning of a block whose rest is in the next chunk
        self._file_left = 0  # bytes of the open file still to come
        self._special_left = 0  # bytes of an extended header still to come
        self._special_kind = b""
        self._special: list[bytes] = []
        self._skip = 0  # padding behind either of them
        self._extensions: _Extensions | None = None
        self._sparse: tuple[Entry, SparseMap] | None = None  # a sparse file whose map is still coming
        self._ended = False
        self.entries = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the tar."""
        view = memoryview(chunk)
        length = len(chunk)
        position = 0
        while position < length and not self._ended:
            if self._file_left:
                position += self._more_data(view[position : position + self._file_left])
            elif self._special_left:
                position += self._more_special(chunk[position : position + self._special_left])
            elif self._skip:
                step = min(self._skip, length - position)
                self._skip -= step
                position += step
            else:
                block = chunk[position : position + BLOCK - len(self._carry)]
                position += len(block)
                if self._carry:
                    block = self._carry + block
                    self._carry = b""
                if len(block) < BLOCK:
                    self._carry = block
                    return
                entry = self._block(block)
                if entry is None:
                    continue
                size = entry.size
                # The common case: a small regular file that lies whole in this chunk.
                if entry.kind == b"0" and size <= length - position and entry.segments is None:
                    self._sink.whole_file(entry, view[position : position + size])
                    position += size
                    self._skip = -size % BLOCK
                else:
                    self._begin(entry)

    def finish(self) -> None:
        """The tar is at its end. Raises DataLoss when it stops in the middle of something."""
        if self._ended:
            return
        if self._carry or self._file_left or self._special_left or self._sparse is not None:
            raise broken("it ends in the middle of an entry")
        self._end()

    def _end(self) -> None:
        if self._extensions is not None:
            raise broken("it ends behind an extended header")
        self._ended = True

    def _block(self, block: bytes) -> Entry | None:
        """The entry that begins here; None when the block was something else."""
        if self._sparse is not None:
            entry, sparse = self._sparse
            if sparse.take(block):
                self._sparse = None
                self._finish_sparse(entry, sparse)
            return None
        if block == _ZEROS:
            self._end()
            return None
        entry = self._header(block)
        if entry is not None:
            self.entries += 1
        return entry

    def _header(self, block: bytes) -> Entry | None:
        name, mode, uid, gid, size, mtime, checksum, kind, link, magic, major, minor, prefix = _HEADER.unpack(
            block
        )
        _check_sum(block, checksum)
        if kind in b"xgLK":
            self._begin_special(kind, parse_number(size))
            return None
        name = name.partition(b"\0")[0]
        if magic == b"ustar\x0000" and prefix[0]:
            name = prefix.partition(b"\0")[0] + b"/" + name
        entry = Entry(
            name,
            kind,
            parse_number(mode) & 0o7777,
            parse_number(uid),
            parse_number(gid),
            parse_number(size),
            parse_number(mtime) * 1_000_000_000,
        )
        if kind not in b"0S":
            entry.link = link.partition(b"\0")[0]
            if kind in b"34":
                entry.device = (parse_number(major), parse_number(minor))
        sparse = self._extend(entry) if self._extensions is not None else None
        if kind != b"0":
            _settle_kind(entry)
        if not 0 <= entry.size <= SIZE_LIMIT:
            raise broken(f"entry {entry.name[:200]!r} has the size {entry.size}")
        if kind == b"S":
            sparse = GnuSparseMap(block, entry.size)
            entry.size = parse_number(block[483:495])
            if not sparse.more:
                self._finish_sparse(entry, sparse)
                return None
        if sparse is not None:
            self._sparse = (entry, sparse)
            return None
        return entry

    def _extend(self, entry: Entry) -> SparseMap | None:
        """Apply the extended headers to their entry; the sparse map that precedes its data, if any."""
        extensions = self._extensions
        assert extensions is not None
        self._extensions = None
        if extensions.name is not None:
            entry.name = extensions.name
        if extensions.link is not None:
            entry.link = extensions.link
        sparse: dict[bytes, list[bytes]] = {}
        for key, value in extensions.records:
            if key.startswith(_XATTR):
                if b"\0" in key:
                    raise broken(f"entry {entry.name[:200]!r} has an attribute with a NUL in its name")
                if entry.xattrs is None:
                    entry.xattrs = {}
                entry.xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value
            elif key.startswith(b"GNU.sparse."):
                sparse.setdefault(key[11:], []).append(value)
            else:
                _apply_record(entry, key, value)
        return _extend_sparse(entry, sparse) if sparse and entry.kind in b"\x0007" else None

    def _begin(self, entry: Entry) -> None:
        if entry.kind != b"0":
            self._sink.other(entry)
            return
        stored = entry.size if entry.segments is None else sum(length for _, length in entry.segments)
        self._sink.begin_file(entry)
        self._file_left = stored
        self._skip = -stored % BLOCK
        if not stored:
            self._sink.end_file()

    def _finish_sparse(self, entry: Entry, sparse: SparseMap) -> None:
        self.entries += 1
        entry.kind = b"0"
        if not 0 <= entry.size <= SIZE_LIMIT:
            raise broken(f"entry {entry.name[:200]!r} has the size {entry.size}")
        entry.segments = check_segments(sparse.segments, entry.size, sparse.stored)
        self._begin(entry)

    def _begin_special(self, kind: bytes, size: int) -> None:
        # All that precede one entry together: any number of them may.
        before = self._extensions.length if self._extensions is not None else 0
        if not 0 <= size <= _SPECIAL_LIMIT - before:
            raise broken(f"an extended header has the size {size}, behind others of {before}")
        self._special_kind = kind
        self._special_left = size
        self._skip = -size % BLOCK
        if not size:
            self._end_special(b"")

    def _more_special(self, piece: bytes) -> int:
        self._special.append(piece)
        self._special_left -= len(piece)
        if not self._special_left:
            data = b"".join(self._special)
            self._special = []
            self._end_special(data)
        return len(piece)

    def _end_special(self, data: bytes) -> None:
        if self._special_kind == b"g":
            parse_pax(data)
            return
        if self._extensions is None:
            self._extensions = _Extensions()
        self._extensions.length += len(data)
        if self._special_kind == b"L":
            self._extensions.name = data.partition(b"\0")[0]
        elif self._special_kind == b"K":
            self._extensions.link = data.partition(b"\0")[0]
        else:
            self._extensions.records.extend(parse_pax(data))

    def _more_data(self, piece: memoryview) -> int:
        self._sink.file_data(piece)
        self._file_left -= len(piece)
        if not self._file_left:
            self._sink.end_file()
        return len(piece)


def _check_sum(block: bytes, checksum: bytes) -> None:
    # The sum of all bytes, the checksum's own taken as spaces. The low half of adler32 is that sum (plus one, modulo a
    # prime just below the largest sums), and it comes from C.
    stated = parse_number(checksum)
    total = (adler32(block) & 0xFFFF) - 1 - sum(checksum) + _SPACES_SUM
    if (total - stated) % _ADLER_BASE == 0:
        return
    # Some old writers summed signed bytes.
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + _SPACES_SUM
    if stated != signed:
        raise broken("a header has the wrong checksum")


def _settle_kind(entry: Entry) -> None:
    """Fold the old and rare kinds into the usual ones; refuse what is unknown."""
    kind = entry.kind
    if kind in (b"\0", b"7"):
        entry.kind = b"5" if kind == b"\0" and entry.name.endswith(b"/") else b"0"
        entry.link = b""
    elif kind not in b"0S" and kind not in b"123456":
        raise broken(f"entry {entry.name[:200]!r} has the unknown type {kind!r}")
    if entry.kind not in (b"0", b"S"):
        entry.size = 0  # whatever it says, no data follows


def _apply_record(entry: Entry, key: bytes, value: bytes) -> None:
    if key == b"path":
        entry.name = value
    elif key == b"linkpath":
        entry.link = value
    elif key == b"size":
        entry.size = parse_decimal(value, "a size")
    elif key == b"mtime":
        entry.mtime_ns = parse_time_ns(value)
    elif key == b"uid":
        entry.uid = parse_decimal(value, "a uid")
    elif key == b"gid":
        entry.gid = parse_decimal(value, "a gid")


def _extend_sparse(entry: Entry, fields: dict[bytes, list[bytes]]) -> SparseMap | None:
    if b"name" in fields:
        entry.name = fields[b"name"][-1]
    if fields.get(b"major", [b""])[-1] == b"1":
        sparse = PaxSparseMap(entry.size)
        entry.size = parse_decimal(fields.get(b"realsize", [b""])[-1], "a sparse file's size")
        return sparse
    if b"size" not in fields:
        return None
    if b"map" in fields:
        numbers = fields[b"map"][-1].split(b",") if fields[b"map"][-1] else []
        pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        if len(numbers) % 2:
            raise broken("a sparse file's map is damaged")
    else:
        offsets, lengths = fields.get(b"offset", []), fields.get(b"numbytes", [])
        if len(offsets) != len(lengths):
            raise broken("a sparse file's map is damaged")
        pairs = list(zip(offsets, lengths, strict=True))
    segments = [(parse_decimal(o, "a sparse offset"), parse_decimal(n, "a sparse length")) for o, n in pairs]
    stored = entry.size
    entry.size = parse_decimal(fields[b"size"][-1], "a sparse file's size")
    entry.segments = check_segments(segments, entry.size, stored)
    return None
