# SPDX-License-Identifier: Apache-2.0
"""Trees removed and measured by descriptor, as an ordinary user may do it, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from oakum.errors import SystemFailure
from oakum.snapshots.protocol import Usage
from oakum.snapshots.tree import measure_tree, open_directory, remove_tree


def grow(directory: Path, depth: int) -> None:
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.mark.parametrize("depth", [0, 1, 63, 64, 65, 66, 129, 300])
def test_depth_does_not_matter(tmp_path: Path, depth: int) -> None:
    (tmp_path / "top").mkdir()
    grow(tmp_path / "top", depth)
    descriptors = len(os.listdir("/proc/self/fd"))
    with open_directory(str(tmp_path)) as fd:
        with open_directory("top", fd) as top_fd:
            assert measure_tree(top_fd).inodes == 1 + 2 * depth
        remove_tree(fd, "top")
        remove_tree(fd, "top")
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_every_kind_of_entry_goes_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    os.symlink(outside, top / "to-directory")
    os.symlink("missing", top / "dangling")
    os.symlink(outside / "kept", top / "d" / "to-file")
    os.mkfifo(top / "pipe")
    os.link(outside / "kept", top / "hard")
    with open_directory(str(tmp_path)) as fd:
        for name in ("to-directory",):
            remove_tree(fd, f"top/{name}")
        remove_tree(fd, "top")
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["kept"]


def test_a_link_is_no_directory_to_open(tmp_path: Path) -> None:
    os.symlink("/", tmp_path / "link")
    with open_directory(str(tmp_path)) as fd, pytest.raises(NotADirectoryError), open_directory("link", fd):
        pass


def test_measuring_counts_as_du_does(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(bytes(10_000))
    os.link(tmp_path / "a" / "one", tmp_path / "a" / "b" / "two")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    with open_directory(str(tmp_path)) as fd:
        counted = measure_tree(fd)
    said = [
        int(subprocess.check_output(["du", "-s", option, tmp_path]).split()[0])
        for option in ("-B1", "--inodes")
    ]
    assert counted == Usage(*said)


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    with (
        open_directory(f"/proc/{os.getpid()}") as fd,
        pytest.raises(SystemFailure, match="remove tree 'status'"),
    ):
        remove_tree(fd, "status")
