# SPDX-License-Identifier: Apache-2.0
"""State files are whole or absent, and leave no crumbs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from oakum.linux.durable import sync_directory, write_file, write_file_fast


@pytest.mark.parametrize("write", [write_file, write_file_fast])
def test_content_and_mode_are_exact_whatever_the_umask(tmp_path: Path, write: object) -> None:
    assert callable(write)
    path = tmp_path / "state"
    old = os.umask(0o077)
    try:
        write(str(path), b"one", 0o644)
        write(str(path), b"two" * 100_000, 0o640)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"two" * 100_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["state"]


def test_a_reader_sees_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_file(str(path), b"old")
    with open(path, "rb") as reader:
        write_file(str(path), b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/full").write_text("")
    with pytest.raises(OSError, match="target"):
        write_file(str(tmp_path / "target"), b"x")  # a directory with content cannot be replaced
    assert sorted(os.listdir(tmp_path)) == ["target"]
    with pytest.raises(FileNotFoundError):
        write_file(str(tmp_path / "no/such/place"), b"x")


def test_a_bare_name_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_file("name", b"x")
    assert (tmp_path / "name").read_bytes() == b"x"
    sync_directory(str(tmp_path))
