# SPDX-License-Identifier: Apache-2.0
"""No path inside a root leads out of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oakum.linux.fd import Fd
from oakum.linux.paths import (
    make_dirs_in_root,
    make_file_in_root,
    open_beneath,
    open_in_root,
    parts,
    read_in_root,
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    fd = os.open(tmp_path / "root", os.O_PATH)
    yield fd
    os.close(fd)


def _where(fd: Fd) -> str:
    with fd:
        return os.readlink(f"/proc/self/fd/{fd.fileno()}")


def test_links_are_resolved_within_the_root(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/f").write_text("inside")
    os.symlink("/etc/f", tmp_path / "root/absolute")
    os.symlink("../../../../etc/f", tmp_path / "root/climbing")
    assert read_in_root(root, "/absolute", 100) == read_in_root(root, "climbing", 100) == b"inside"
    os.symlink(str(tmp_path / "outside/secret"), tmp_path / "root/out")
    with pytest.raises(FileNotFoundError):
        open_in_root(root, "out", os.O_RDONLY)


def test_magic_links_are_refused(root: int) -> None:
    proc = os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(OSError, match="symbolic links") as caught:
            open_in_root(proc, "self/fd/0/../..", os.O_PATH)
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(proc)


def test_beneath_allows_no_link_and_no_climbing(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/d").mkdir()
    os.symlink("d", tmp_path / "root/l")
    open_beneath(root, "d", os.O_PATH).close()
    for path, number in (("l/x", errno.ELOOP), ("..", errno.EXDEV), ("/d", errno.EXDEV)):
        with pytest.raises(OSError, match=r".") as caught:
            open_beneath(root, path, os.O_PATH)
        assert caught.value.errno == number


def test_directories_are_made_also_behind_dangling_links(root: int, tmp_path: Path) -> None:
    base = str(tmp_path / "root")
    assert _where(make_dirs_in_root(root, "/a/b/c", 0o750)) == f"{base}/a/b/c"
    assert _where(make_dirs_in_root(root, "/a/b/c")) == f"{base}/a/b/c"
    os.symlink("/later/on", tmp_path / "root/dangling")
    assert _where(make_dirs_in_root(root, "dangling/deep")) == f"{base}/later/on/deep"
    os.symlink("../../../../up", tmp_path / "root/a/climb")
    assert _where(make_dirs_in_root(root, "a/climb")) == f"{base}/up"
    assert _where(make_dirs_in_root(root, "x/../../../y")) == f"{base}/y"
    assert _where(make_dirs_in_root(root, "/")) == base


def test_a_file_in_the_way_and_a_loop_are_errors(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/file").write_text("")
    with pytest.raises(NotADirectoryError):
        make_dirs_in_root(root, "file/sub")
    os.symlink("loop", tmp_path / "root/loop")
    with pytest.raises(OSError, match="symbolic links"):
        make_dirs_in_root(root, "loop/sub")


def test_files_as_mountpoints(root: int, tmp_path: Path) -> None:
    base = str(tmp_path / "root")
    assert _where(make_file_in_root(root, "/etc/deep/file")) == f"{base}/etc/deep/file"
    assert _where(make_file_in_root(root, "/etc/deep/file")) == f"{base}/etc/deep/file"
    os.symlink(str(tmp_path / "outside/new"), tmp_path / "root/out")
    with pytest.raises(OSError, match="out"):
        make_file_in_root(root, "out")
    assert os.listdir(tmp_path / "outside") == ["secret"]


def test_reading_is_bounded_and_only_of_files(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/f").write_bytes(b"x" * 200_000)
    assert len(read_in_root(root, "f", 200_000)) == 200_000
    with pytest.raises(OSError, match="too large") as caught:
        read_in_root(root, "f", 199_999)
    assert caught.value.errno == errno.EFBIG
    os.mkfifo(tmp_path / "root/pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="Invalid argument"):
            read_in_root(root, name, 10)


_STEP = st.sampled_from(["a", "b", "link", "up", "self", "..", ".", "", "out"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_STEP, min_size=1, max_size=8))
def test_whatever_is_made_is_made_inside(root: int, tmp_path: Path, steps: list[str]) -> None:
    base = tmp_path / "root"
    for name, text in (
        ("link", "/a/b"),
        ("up", "../../.."),
        ("self", "."),
        ("out", str(tmp_path / "outside")),
    ):
        if not (base / name).is_symlink():
            os.symlink(text, base / name)
    try:
        where = _where(make_dirs_in_root(root, "/".join(steps)))
    except OSError:
        where = str(base)
    assert where == str(base) or where.startswith(f"{base}/")
    assert os.listdir(tmp_path / "outside") == ["secret"]
    assert sorted(os.listdir(tmp_path)) == ["outside", "root"]


def test_parts_of_a_path() -> None:
    assert parts("//a/./b/../c/") == ["a", "b", "..", "c"]
