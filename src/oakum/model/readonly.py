# SPDX-License-Identifier: Apache-2.0
"""Databases on a read-only file system: opened for looking only. Owns no tables, and is loaded where writing has failed."""

from __future__ import annotations

import errno
import os
import sqlite3
from urllib.parse import quote

HINT = "its file system is read-only: make it writable (mount -o remount,rw), or name another with --root and --state"
_REFUSED = "readonly database"  # SQLite's words


def open_read_only(path: str, *, timeout_s: float) -> sqlite3.Connection:
    """A connection that can read the database at `path`, where nothing can be written.

    Where others have it open through a writable mount their log and index lie beside it, and are read, too. Where nobody
    has, SQLite could not make them, and is told that nobody writes: so a long life of this connection is a risk.
    Source: sqlite.org/wal.html, "Read-Only Databases".

    Raises:
        sqlite3.Error: it is damaged, or has a log that needs to be written back first.
    """
    where = quote(path)
    try:
        return _open(f"file:{where}?mode=ro", timeout_s)
    except sqlite3.OperationalError as error:
        try:
            with open(f"{path}-wal", "rb") as log:
                unread = log.read(1)
        except OSError:
            unread = b""
        if unread:
            raise sqlite3.OperationalError(f"{error}, for its log") from error
        return _open(f"file:{where}?mode=ro&immutable=1", timeout_s)


def _open(uri: str, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def refused(error: Exception, path: str) -> bool:
    """Whether an error of SQLite's or the system's, at a file, means that nothing can be written there."""
    if _REFUSED in str(error) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return True
    try:
        return bool(os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY)
    except OSError:
        return False  # it has gone meanwhile, and the error stands for itself
