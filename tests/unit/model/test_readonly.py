# SPDX-License-Identifier: Apache-2.0
"""Databases where nothing can be written: what is there is read, and refusals are told from other errors."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.model.readonly import open_read_only, refused


@pytest.fixture
def written(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "odd? #name.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE things (name TEXT)")
    yield connection
    connection.close()


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM things")]


def test_what_others_write_meanwhile_is_seen_and_nothing_can_be_written(
    tmp_path: Path, written: sqlite3.Connection
) -> None:
    path = str(tmp_path / "odd? #name.db")
    looking = open_read_only(path, timeout_s=1)
    try:
        written.execute("INSERT INTO things VALUES ('new')")
        assert names(looking) == ["new"]
        with pytest.raises(sqlite3.OperationalError) as caught:
            looking.execute("INSERT INTO things VALUES ('mine')")
        assert refused(caught.value, path)
    finally:
        looking.close()


def test_what_nobody_has_open_is_read_without_files_beside_it(
    tmp_path: Path, written: sqlite3.Connection
) -> None:
    written.execute("INSERT INTO things VALUES ('old')")
    written.close()
    path = tmp_path / "odd? #name.db"
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        looking = open_read_only(str(path), timeout_s=1)
        assert names(looking) == ["old"]
        looking.close()
    finally:
        tmp_path.chmod(0o755)


def test_only_what_cannot_be_written_counts_as_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    assert refused(OSError(errno.EROFS, "Read-only file system"), path)
    assert not refused(OSError(errno.ENOSPC, "No space left on device"), path)
    assert not refused(sqlite3.OperationalError("database is locked"), str(tmp_path / "gone" / "x.db"))
