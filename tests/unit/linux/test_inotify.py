# SPDX-License-Identifier: Apache-2.0
"""Notices of what appears in a directory, and the kernel's format, whatever it holds."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakum.linux.inotify import IN_CREATE, IN_IGNORED, IN_MODIFY, IN_MOVED_TO, Inotify, parse


def test_what_appears_is_noticed_and_nothing_else(tmp_path: Path) -> None:
    with Inotify() as inotify:
        watch = inotify.add(str(tmp_path), IN_MOVED_TO | IN_CREATE | IN_MODIFY)
        assert inotify.read() == []
        (tmp_path / "temporary").write_bytes(b"x")
        (tmp_path / "temporary").rename(tmp_path / "exit.json")
        found = inotify.read()
        assert [(n.mask, n.name) for n in found] == [
            (IN_CREATE, "temporary"),
            (IN_MODIFY, "temporary"),
            (IN_MOVED_TO, "exit.json"),
        ]
        assert {n.watch for n in found} == {watch}


def test_a_watch_ends_with_its_directory_or_when_told(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with Inotify() as inotify:
        watch = inotify.add(str(tmp_path / "d"), IN_CREATE)
        (tmp_path / "d").rmdir()
        assert inotify.read()[-1] == (watch, IN_IGNORED, "")
        inotify.remove(watch)
        kept = inotify.add(str(tmp_path), IN_CREATE)
        inotify.remove(kept)
        inotify.read()
        (tmp_path / "e").mkdir()
        assert inotify.read() == []


def test_only_directories_are_watched(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Inotify() as inotify:
        with pytest.raises(NotADirectoryError) as raised:
            inotify.add(str(tmp_path / "file"), IN_CREATE)
        assert raised.value.filename == str(tmp_path / "file")
        with pytest.raises(OSError, match="missing") as missing:
            inotify.add(str(tmp_path / "missing"), IN_CREATE)
        assert missing.value.errno == errno.ENOENT


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=80)


@given(st.lists(st.tuples(st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), names), max_size=9))
def test_notices_are_read_as_the_kernel_writes_them(wanted: list[tuple[int, int, str]]) -> None:
    data = b""
    for watch, mask, name in wanted:
        padded = os.fsencode(name)
        padded += b"\0" * (16 - len(padded) % 16) if padded else b""
        data += struct.pack("=iIII", watch, mask, 0, len(padded)) + padded
    assert [tuple(notice) for notice in parse(data)] == wanted
