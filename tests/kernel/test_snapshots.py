# SPDX-License-Identifier: Apache-2.0
"""Snapshots on file systems of several kinds: which snapshotter is chosen and why, and what the mounts show."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oakum.errors import SystemFailure
from oakum.linux import mount
from oakum.oci.rootfs import open_root
from oakum.snapshots import CopySnapshotter, OverlaySnapshotter, open_snapshotter
from oakum.snapshots.detect import why_no_overlay

CHAIN = "sha256:" + "1" * 64


@contextmanager
def on_overlay(directory: Path) -> Iterator[str]:
    """A directory on an overlay, by a descriptor: nothing is mounted where others see it."""
    for name in ("lower", "upper", "work"):
        (directory / name).mkdir()
    with mount.overlay([str(directory / "lower")], str(directory / "upper"), str(directory / "work")) as tree:
        yield f"/proc/self/fd/{tree.fileno()}"


def test_an_ordinary_disk_carries_overlays(tmp_path: Path) -> None:
    snapshots = open_snapshotter(str(tmp_path / "s"))
    assert isinstance(snapshots, OverlaySnapshotter)
    assert (snapshots.kind, snapshots.reason) == ("overlay", "")
    assert os.readlink(tmp_path / "s" / "kind") == "overlay"
    assert sorted(os.listdir(tmp_path / "s")) == ["containers", "kind", "layers", "staging", "trash", "views"]


def test_a_disk_that_is_an_overlay_itself_gets_copies_and_says_why(tmp_path: Path) -> None:
    with on_overlay(tmp_path) as directory:
        reason = why_no_overlay(directory)
        assert reason != ""
        snapshots = open_snapshotter(f"{directory}/s")
        assert isinstance(snapshots, CopySnapshotter)
        assert snapshots.reason == reason
        layer = snapshots.open_layer(CHAIN, "")
        assert layer is not None
        Path(layer, "hello").write_text("x")
        snapshots.commit_layer(CHAIN)
        with open_root(snapshots.prepare_container("one", CHAIN), "") as root:
            assert os.listdir(f"/proc/self/fd/{root.fileno()}") == ["hello"]
        again = open_snapshotter(f"{directory}/s")
        assert (again.kind, again.reason) == ("copy", reason)
        assert list(again.containers()) == ["one"]


def test_long_and_awkward_paths_mount_with_many_layers(tmp_path: Path) -> None:
    deep = tmp_path / ("long-" * 40) / "a,b:c\\d e"
    deep.mkdir(parents=True)
    snapshots = OverlaySnapshotter(str(deep))
    parent = ""
    for number in range(130):
        chain = f"sha256:{number:064x}"
        directory = snapshots.open_layer(chain, parent)
        assert directory is not None
        Path(directory, f"f{number}").write_text("x")
        snapshots.commit_layer(chain)
        parent = chain
    with open_root(snapshots.prepare_container("one", parent), "") as root:
        assert len(os.listdir(f"/proc/self/fd/{root.fileno()}")) == 130
    with open_root(snapshots.view("seen", parent), "") as root:
        assert len(os.listdir(f"/proc/self/fd/{root.fileno()}")) == 130


def test_an_immutable_file_is_named_with_a_way_out(tmp_path: Path) -> None:
    snapshots = OverlaySnapshotter(str(tmp_path))
    snapshots.prepare_container("one", "")
    with open(f"{snapshots.container_directory('one')}/held", "w", encoding="ascii") as file:
        set_flags(file.fileno(), 0x10)
        try:
            with pytest.raises(SystemFailure, match=r"Operation not permitted .*chattr -i"):
                snapshots.remove_container("one")
            assert list(snapshots.containers()) == []
        finally:
            set_flags(file.fileno(), 0)
    assert snapshots.cleanup() == 1
    assert os.listdir(tmp_path / "trash") == []


def set_flags(fd: int, flags: int) -> None:
    """Set inode flags. Source: ioctl_iflags(2), FS_IOC_SETFLAGS and FS_IMMUTABLE_FL (0x10)."""
    fcntl.ioctl(fd, 0x40086602, struct.pack("=l", flags))


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with mount.new_filesystem("tmpfs", [("size", "1m"), ("nr_inodes", "64")]) as tree:
        directory = f"/proc/self/fd/{tree.fileno()}"
        snapshots = CopySnapshotter(directory)
        layer = snapshots.open_layer(CHAIN, "")
        assert layer is not None
        for number in range(25):
            Path(layer, str(number)).write_text("x")
        snapshots.commit_layer(CHAIN)
        snapshots.prepare_container("one", CHAIN)
        with pytest.raises(SystemFailure, match=r"prepare container two: No space left on device"):
            snapshots.prepare_container("two", CHAIN)
        assert list(snapshots.containers()) == ["one"]
        assert os.listdir(f"{directory}/staging") == os.listdir(f"{directory}/trash") == []


def test_a_store_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    snapshots = open_snapshotter(str(tmp_path / "link"))
    snapshots.prepare_container("one", "")
    snapshots.remove_container("one")
    assert sorted(os.listdir(tmp_path / "real" / "containers")) == []
