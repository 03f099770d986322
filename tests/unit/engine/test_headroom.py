# SPDX-License-Identifier: Apache-2.0
"""The space that is kept for the databases, on disks that refuse it or say nothing of themselves."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from oakum.engine.store import headroom


def test_space_that_could_not_be_kept_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _offset: int, _size: int) -> None:
        raise OSError(errno.EDQUOT, "quota")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        headroom.adjust(str(tmp_path))
        assert (tmp_path / "headroom").stat().st_size == 0
    headroom.adjust(str(tmp_path))
    kept = (tmp_path / "headroom").stat()
    assert 0 < kept.st_size <= kept.st_blocks * 512


def test_a_disk_that_does_not_say_its_size_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_ramfs(_path: str) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", of_ramfs)
    headroom.require(str(tmp_path), "run sandbox", "web")
    headroom.adjust(str(tmp_path))
    assert not (tmp_path / "headroom").exists()
