# SPDX-License-Identifier: Apache-2.0
"""Entries become files inside the layer's directory, whatever their names try. Without root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oakum.errors import DataLoss, OakumError, ResourceExhausted
from oakum.images import layerfiles
from oakum.images.layerfiles import LayerRest, LayerWriter, clean_name
from oakum.images.lower import finish_layer
from oakum.images.tarstream import TarReader
from tests.support.images import make_layer, tar_entry

OPAQUE = "user.overlay.opaque"


@pytest.fixture(autouse=True)
def plain_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def unpack(directory: Path, *entries: Any) -> LayerRest:
    """Unpack one layer of `entries` as nobody special."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    writer = LayerWriter(fd, keep_owners=False, user_xattr=True)
    try:
        reader = TarReader(writer)
        data = make_layer(entries)
        for start in range(0, len(data), 3000):
            reader.feed(data[start : start + 3000])
        reader.finish()
        return writer.finish()
    finally:
        writer.close()
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        (b"a/b", b"a/b"),
        (b"/a//b/", b"a/b"),
        (b"./a/./b", b"a/b"),
        (b"", b""),
        (b"./", b""),
        (b"..a/b..", b"..a/b.."),
    ],
)
def test_names_are_cleaned(name: bytes, clean: bytes) -> None:
    assert clean_name(name) == clean


@given(st.binary(max_size=60))
def test_a_clean_name_goes_down_only(name: bytes) -> None:
    try:
        clean = clean_name(name)
    except DataLoss:
        return
    assert not clean.startswith(b"/")
    assert all(part not in (b"", b".", b"..") for part in clean.split(b"/")) or clean == b""


def test_a_tree_with_modes_times_and_links(tmp_path: Path) -> None:
    rest = unpack(
        tmp_path,
        tar_entry("./", "d", mode=0o750),
        tar_entry("./dir/", "d", mode=0o500, mtime=1_000),
        tar_entry("./dir/file", "f", b"x" * 10_000, 0o640, mtime=2_000),
        tar_entry("./dir/hard", "h", "./dir/file"),
        tar_entry("soft", "l", "dir/file"),
    )
    assert rest == LayerRest((), ())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750
    assert (stat.S_IMODE((tmp_path / "dir").stat().st_mode), (tmp_path / "dir").stat().st_mtime) == (
        0o500,
        1_000,
    )
    assert (tmp_path / "soft").read_bytes() == b"x" * 10_000
    assert (tmp_path / "dir/hard").stat().st_nlink == 2
    os.chmod(tmp_path / "dir", 0o700)


def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        tar_entry("a", "f", b"1"),
        tar_entry("a", "f", b"2"),
        tar_entry("b", "d"),
        tar_entry("b/c", "f", b"1"),
        tar_entry("b", "f", b"file now"),
        tar_entry("d", "f", b""),
        tar_entry("d", "d"),
        tar_entry("d/e", "f", b"2"),
        tar_entry("f", "d"),
        tar_entry("f/g", "f", b"kept"),
        tar_entry("f", "d", mode=0o711),
        tar_entry("h", "l", "a"),
        tar_entry("h", "h", "a"),
        tar_entry("h", "h", "a"),
    )
    assert (tmp_path / "a").read_bytes() == b"2"
    assert (tmp_path / "b").read_bytes() == b"file now"
    assert (tmp_path / "d/e").read_bytes() == b"2"
    assert (tmp_path / "f/g").read_bytes() == b"kept"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o711
    assert os.path.samefile(tmp_path / "h", tmp_path / "a")


def test_directories_that_the_tar_leaves_out_are_noted(tmp_path: Path) -> None:
    rest = unpack(
        tmp_path, tar_entry("a/b/c", "f", b""), tar_entry("a", "d"), tar_entry("l", "h", "nowhere/x")
    )
    assert rest == LayerRest((b"a/b",), ((b"l", b"nowhere/x"),))


def test_a_replaced_directory_is_not_written_through_an_old_descriptor(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = tmp_path / "layer"
    layer.mkdir()
    unpack(
        layer,
        tar_entry("a", "d"),
        tar_entry("a/x", "f", b"1"),
        tar_entry("a", "l", str(outside)),
        tar_entry("a/x", "f", b"2"),
    )
    assert os.listdir(outside) == []
    assert (layer / str(outside).lstrip("/") / "x").read_bytes() == b"2"


def test_a_directory_inside_another_is_replaced_by_a_file_and_by_a_link(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        tar_entry("a", "d"),
        tar_entry("c", "d"),
        tar_entry("c/source", "f", b"linked"),
        *(tar_entry(f"a/{name}/inside", "f", b"old") for name in ("file", "hard", "soft")),
        tar_entry("a/file", "f", b"new"),
        tar_entry("a/hard", "h", "c/source"),
        tar_entry("a/soft", "l", "file"),
        tar_entry("a/last", "f", b"last"),
    )
    assert (tmp_path / "a/file").read_bytes() == b"new"
    assert (tmp_path / "a/hard").read_bytes() == b"linked"
    assert os.readlink(tmp_path / "a/soft") == "file"
    assert (tmp_path / "a/last").read_bytes() == b"last"


def test_a_replaced_link_is_not_written_through(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        tar_entry("b", "d"),
        tar_entry("a", "l", "b"),
        tar_entry("a/through", "f", b"1"),
        tar_entry("a", "d"),
        tar_entry("a/own", "f", b"2"),
    )
    assert os.listdir(tmp_path / "b") == ["through"]
    assert os.listdir(tmp_path / "a") == ["own"]


@pytest.mark.parametrize("what", ["named", "left out", "links"])
def test_what_has_to_be_remembered_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(layerfiles, "_KEPT_LIMIT_BYTES", 10_000)
    entries = {
        "named": lambda n: tar_entry(f"{n}", "d"),
        "left out": lambda n: tar_entry(f"{n}/f", "f", b""),
        "links": lambda n: tar_entry(f"{n}", "h", "below"),
    }
    unpack(tmp_path, *(entries[what](f"few{n}") for n in range(10)))
    with pytest.raises(DataLoss, match="to remember"):
        unpack(tmp_path, *(entries[what](f"many{n}") for n in range(40)))


def test_more_directories_than_descriptors(tmp_path: Path) -> None:
    entries = [tar_entry(f"d{number}/f", "f", b"x") for number in range(400)]
    entries += [tar_entry(f"d{number}/g", "f", b"y") for number in range(400)]
    before = len(os.listdir("/proc/self/fd"))
    unpack(tmp_path, *entries)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir(tmp_path)) == 400


def test_marks_of_removal(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        tar_entry("o/.wh..wh..opq", "f", b""),
        tar_entry("o/new", "f", b""),
        tar_entry(".wh..wh.plnk", "f", b""),
    )
    assert os.getxattr(tmp_path / "o", OPAQUE) == b"y"
    assert sorted(os.listdir(tmp_path)) == ["o"]
    with pytest.raises(DataLoss, match="not a whiteout"):
        unpack(tmp_path, tar_entry("o/.wh...", "f", b""))


@pytest.mark.parametrize(
    "entry",
    [
        tar_entry("..", "d"),
        tar_entry("a/../..", "l", "x"),
        tar_entry("link", "h", "../x"),
        tar_entry("link", "h", ""),
        tar_entry("link", "l", ""),
        tar_entry("n" * 300, "f", b""),
        tar_entry("/", "f", b"x"),
    ],
)
def test_hostile_entries_are_refused(tmp_path: Path, entry: Any) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    with pytest.raises(DataLoss, match="unpack layer"):
        unpack(layer, entry)
    assert os.listdir(tmp_path) == ["layer"]


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataLoss):
        unpack(tmp_path, tar_entry("a", "l", "b"), tar_entry("b", "l", "a"), tar_entry("a/x", "f", b""))


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("oakum.images.layerfiles.os.write", full)
    with pytest.raises(ResourceExhausted, match=r"'dir/file'.*No space left"):
        unpack(tmp_path, tar_entry("dir/file", "f", b"x"))


part = st.sampled_from(["a", "b", "c", ".", "..", "", ".wh.a", ".wh..wh..opq", "l"])
path = st.lists(part, min_size=1, max_size=4).map("/".join)


@st.composite
def any_entry(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from("fffddllhhp"))
    target = draw(
        st.sampled_from(
            ["/", "..", "../..", "/outside", "../outside", "a", "b", "l", "a/b", "../../../../tmp"]
        )
    )
    return tar_entry(draw(path), kind, target if kind in "lh" else b"data")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(any_entry(), max_size=12))
def test_nothing_leaves_the_layer(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]) -> None:
    around = tmp_path_factory.mktemp("around")
    (around / "outside").mkdir()
    (around / "outside/secret").write_text("precious")
    layer = around / "layer"
    layer.mkdir()
    try:
        rest = unpack(layer, *entries)
        finish_layer(str(layer), [], rest)
    except (DataLoss, OakumError):
        pass
    assert sorted(os.listdir(around)) == ["layer", "outside"]
    assert os.listdir(around / "outside") == ["secret"]
    secret = os.stat(around / "outside/secret")
    assert secret.st_nlink == 1
    assert (around / "outside/secret").read_text() == "precious"
