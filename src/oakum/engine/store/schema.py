# SPDX-License-Identifier: Apache-2.0
"""The tables, as a chain of migrations; `PRAGMA user_version` says how far a database has come.

What is searched by is a column, all else is one JSON value (`store.records`). A migration, once released, is
never changed; a new one is appended.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from oakum.errors import FailedPrecondition

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE namespaces (
        name TEXT PRIMARY KEY,
        created_at_ns INTEGER NOT NULL
    ) WITHOUT ROWID;

    -- name_key is what may be there only once: metadata of a CRI pod, or the name of `oakum run`.
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY,
        namespace TEXT NOT NULL,
        name_key TEXT NOT NULL,
        phase TEXT NOT NULL,
        created_at_ns INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (namespace, name_key)
    ) WITHOUT ROWID;

    CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        namespace TEXT NOT NULL,
        sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
        name_key TEXT NOT NULL,
        phase TEXT NOT NULL,
        created_at_ns INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (namespace, name_key)
    ) WITHOUT ROWID;
    CREATE INDEX containers_by_sandbox ON containers (sandbox_id);

    -- Images are shared by all namespaces; only names belong to one.
    CREATE TABLE images (
        manifest_digest TEXT PRIMARY KEY,
        data BLOB NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE image_names (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        manifest_digest TEXT NOT NULL REFERENCES images (manifest_digest),
        -- What the name points to: an index, or that manifest.
        target_digest TEXT NOT NULL,
        created_at_ns INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE INDEX image_names_by_manifest ON image_names (manifest_digest);
    """,
)

VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring a database to `VERSION`, each step in its own transaction; several processes may try at once.

    Raises:
        FailedPrecondition: a newer oakum has written it.
    """
    while True:
        version: int
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == VERSION:
            return
        if version > VERSION:
            raise FailedPrecondition(
                "open database",
                path,
                f"its schema is version {version}, this oakum knows {VERSION}",
                hint="use the newer oakum that wrote it",
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Somebody else may have migrated while we waited for the write lock.
            current: int
            (current,) = connection.execute("PRAGMA user_version").fetchone()
            if current == version:
                for statement in _statements(MIGRATIONS[version]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    """The statements of a migration. `executescript` would commit the transaction we are in."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines():
        if line.strip().startswith("--"):
            continue
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found
