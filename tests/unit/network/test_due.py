# SPDX-License-Identifier: Apache-2.0
"""The quick look whether anything is owed: at no database, an older one, one with and without debts, a damaged one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from oakum.errors import SystemFailure
from oakum.network.database import NetworkDatabase
from oakum.network.due import anything_due


def test_what_is_owed_is_seen_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "network.db")
    assert not anything_due(path)
    assert not Path(path).exists(), "a look makes nothing"
    database = NetworkDatabase(path)
    assert not anything_due(path)
    with database.change():
        database.owe("a", "names")
    assert anything_due(path)
    with database.change():
        for due in database.due("names"):
            database.settle(due)
    assert not anything_due(path)
    database.close()


def test_an_older_database_owes_nothing_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    older = sqlite3.connect(tmp_path / "older.db")
    older.execute("CREATE TABLE networks (name TEXT)")
    older.close()
    assert not anything_due(str(tmp_path / "older.db"))
    (tmp_path / "damaged.db").write_bytes(b"not a database" * 100)
    with pytest.raises(SystemFailure, match="read network database"):
        anything_due(str(tmp_path / "damaged.db"))
