# SPDX-License-Identifier: Apache-2.0
"""The streaming reader finds in any tar what Python's own finds, however the tar is cut into chunks."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oakum.errors import DataLoss
from oakum.images.tarstream import Entry, TarReader
from tests.support.images import make_layer, tar_entry


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []
        self._open: Entry | None = None
        self._data = b""

    def whole_file(self, entry: Entry, data: memoryview) -> None:
        self._add(entry, bytes(data))

    def begin_file(self, entry: Entry) -> None:
        assert self._open is None
        self._open, self._data = entry, b""

    def file_data(self, data: memoryview) -> None:
        self._data += bytes(data)

    def end_file(self) -> None:
        assert self._open is not None
        entry, self._open = self._open, None
        if entry.segments is None:
            self._add(entry, self._data)
            return
        content = bytearray(entry.size)
        position = 0
        for offset, length in entry.segments:
            content[offset : offset + length] = self._data[position : position + length]
            position += length
        assert position == len(self._data)
        self._add(entry, bytes(content))

    def other(self, entry: Entry) -> None:
        assert self._open is None
        self._add(entry, b"")

    def _add(self, entry: Entry, data: bytes) -> None:
        name = entry.name.rstrip(b"/")
        self.found.append(
            (
                name,
                entry.kind,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.mtime_ns,
                entry.link,
                entry.device,
                data,
            )
        )


def read(data: bytes, sizes: list[int]) -> list[tuple[Any, ...]]:
    """Feed `data` in chunks of `sizes`, over and over."""
    recorder = Recorder()
    reader = TarReader(recorder)
    position = turn = 0
    while position < len(data):
        step = sizes[turn % len(sizes)]
        reader.feed(data[position : position + step])
        position += step
        turn += 1
    reader.finish()
    assert reader.entries == len(recorder.found)
    return recorder.found


def expected(data: bytes) -> list[tuple[Any, ...]]:
    """The same, as Python's tarfile sees it."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            content = file.read() if file is not None else b""
            kind = b"0" if member.isreg() else member.type
            link = member.linkname.encode("utf-8", "surrogateescape") if kind in b"12" else b""
            device = (member.devmajor, member.devminor) if kind in b"34" else (0, 0)
            name = member.name.encode("utf-8", "surrogateescape")
            facts = (member.mode, member.uid, member.gid, int(member.mtime) * 1_000_000_000)
            found.append((name, kind, *facts, link, device, content))
    return found


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=120),
    min_size=1,
    max_size=3,
).map("/".join)
numbers = st.integers(0, 0o7777777) | st.integers(0, 1 << 33)


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from("fffdlhcbp"))
    payload: Any = b""
    if kind == "f":
        payload = draw(st.binary(max_size=1500))
    elif kind in "lh":
        payload = draw(names)
    elif kind in "cb":
        payload = (draw(st.integers(0, 511)), draw(st.integers(0, 0o7777777)))
    mtime = draw(st.integers(0, 1 << 34))
    mode = draw(st.integers(0, 0o7777))
    return tar_entry(draw(names), kind, payload, mode, uid=draw(numbers), gid=draw(numbers), mtime=mtime)


chunks = st.lists(st.sampled_from([1, 7, 100, 511, 512, 513, 1024, 4096, 100_000]), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(members(), max_size=8), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), chunks)
def test_any_tar_reads_as_tarfile_reads_it(entries: list[Any], form: int, sizes: list[int]) -> None:
    data = make_layer(entries, tar_format=form)
    if sizes == [1]:
        sizes = [1, 4096]
    assert read(data, sizes) == expected(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(members(), min_size=1, max_size=3), st.data())
def test_a_damaged_tar_is_read_or_refused_but_never_breaks_the_reader(
    entries: list[Any], data: st.DataObject
) -> None:
    tar = bytearray(make_layer(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(tar), [4096, 300])
    except DataLoss:
        return


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read(data, [700])
    except DataLoss:
        return


@given(st.lists(members(), min_size=1, max_size=3), st.data())
def test_a_cut_tar_is_refused_unless_all_that_is_there_is_whole(
    entries: list[Any], data: st.DataObject
) -> None:
    tar = make_layer(entries)
    end = len(tar.rstrip(b"\0"))
    cut = data.draw(st.integers(1, max(1, end - 1)))
    try:
        found = read(tar[:cut], [512])
    except DataLoss:
        return
    # Cut between two entries, or in the padding of the last: what was found is whole.
    assert found == expected(tar)[: len(found)]


def test_what_follows_the_end_is_not_read() -> None:
    tar = make_layer([tar_entry("a", "f", b"x")])
    assert read(tar + make_layer([tar_entry("b", "f", b"y")]), [1000]) == expected(tar)


def test_a_tar_may_end_without_its_two_empty_blocks() -> None:
    tar = make_layer([tar_entry("a", "f", b"x")])
    assert read(tar[:1024], [1024]) == expected(tar)
    assert read(b"", [1]) == []


def test_old_tars_name_directories_by_a_slash() -> None:
    info, _ = tar_entry("old/", "f", b"")
    info.type = tarfile.AREGTYPE
    block = info.tobuf(tarfile.USTAR_FORMAT)
    assert [entry[:2] for entry in read(block, [512])] == [(b"old", b"5")]


def test_links_and_directories_have_no_data_whatever_they_say() -> None:
    info, _ = tar_entry("link", "h", "target")
    info.size = 5000
    follower = make_layer([tar_entry("next", "f", b"x")])
    assert [entry[0] for entry in read(info.tobuf() + follower, [512])] == [b"link", b"next"]


def test_signed_checksums_of_old_writers_are_taken() -> None:
    info, _ = tar_entry("näme", "f", b"")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    signed = tarfile.calc_chksums(bytes(block))[1]  # type: ignore[attr-defined]
    block[148:156] = b"%06o\0 " % signed
    assert len(read(bytes(block), [512])) == 1


@pytest.mark.parametrize("kind", [b"A", b"V", b"M", b"Z", b"\xff"])
def test_unknown_kinds_are_refused(kind: bytes) -> None:
    info, _ = tar_entry("x", "f", b"")
    info.type = kind
    with pytest.raises(DataLoss, match="unknown type"):
        read(info.tobuf(tarfile.USTAR_FORMAT), [512])


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_an_endless_extended_header_is_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 1 << 30
    with pytest.raises(DataLoss, match="extended header has the size"):
        read(info.tobuf(tarfile.GNU_FORMAT), [512])


def test_extended_headers_without_end_are_refused() -> None:
    packed = tar_entry("a", "f", b"", pax_headers={"comment": "x" * 60_000})
    headers = make_layer([packed])[: 512 + 60_416]
    with pytest.raises(DataLoss, match="extended header has the size"):
        read(headers * 40, [512])


def test_an_attribute_with_a_nul_in_its_name_is_refused() -> None:
    headers = {"SCHILY.xattr.user.a\0b": "1"}
    with pytest.raises(DataLoss, match="NUL in its name"):
        read(make_layer([tar_entry("a", "f", b"", pax_headers=headers)]), [512])


def test_a_tar_that_ends_behind_an_extended_header_is_refused() -> None:
    tar = make_layer([tar_entry("n" * 300, "f", b"x")])
    with pytest.raises(DataLoss, match="behind an extended header"):
        read(tar[:1024] + bytes(1024), [512])


def test_extended_attributes_come_with_their_file_only() -> None:
    noted: list[Any] = []

    class Attributes(Recorder):
        def whole_file(self, entry: Entry, data: memoryview) -> None:
            noted.append((entry.name, entry.xattrs))

    headers = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "ü"}
    reader = TarReader(Attributes())
    reader.feed(make_layer([tar_entry("a", "f", b"", pax_headers=headers), tar_entry("b", "f", b"")]))
    assert noted == [(b"a", {"user.a": b"1", "user.b": "ü".encode()}), (b"b", None)]


def test_global_headers_do_not_apply() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil"}) as tar:
        tar.addfile(*(tar_entry("good", "f", b"x")[:1]), io.BytesIO(b"x"))
    assert [entry[0] for entry in read(out.getvalue(), [512])] == [b"good"]
