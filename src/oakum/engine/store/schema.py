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
    """
    -- What happened, in its order, whichever process did it: triggers miss nothing and cost no caller a thought.
    -- data is the row as it last was, of an object that is gone. Only the latest are kept (see events_trimmed).
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        object TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        data BLOB
    );
    CREATE TRIGGER events_trimmed AFTER INSERT ON events BEGIN
        DELETE FROM events WHERE seq <= NEW.seq - 4096;
    END;

    CREATE TRIGGER container_created AFTER UPDATE OF phase ON containers
    WHEN OLD.phase = 'creating' AND NEW.phase = 'created' BEGIN
        INSERT INTO events (namespace, object, kind, id) VALUES (NEW.namespace, 'container', 'created', NEW.id);
    END;
    CREATE TRIGGER container_started AFTER UPDATE OF phase ON containers
    WHEN OLD.phase <> 'started' AND NEW.phase = 'started' BEGIN
        INSERT INTO events (namespace, object, kind, id) VALUES (NEW.namespace, 'container', 'started', NEW.id);
    END;
    CREATE TRIGGER container_deleted AFTER DELETE ON containers WHEN OLD.phase <> 'creating' BEGIN
        INSERT INTO events (namespace, object, kind, id, data)
        VALUES (OLD.namespace, 'container', 'deleted', OLD.id, OLD.data);
    END;
    CREATE TRIGGER sandbox_started AFTER UPDATE OF phase ON sandboxes
    WHEN OLD.phase = 'creating' AND NEW.phase = 'ready' BEGIN
        INSERT INTO events (namespace, object, kind, id) VALUES (NEW.namespace, 'sandbox', 'started', NEW.id);
    END;
    CREATE TRIGGER sandbox_stopped AFTER UPDATE OF phase ON sandboxes
    WHEN OLD.phase <> 'stopped' AND NEW.phase = 'stopped' BEGIN
        INSERT INTO events (namespace, object, kind, id) VALUES (NEW.namespace, 'sandbox', 'stopped', NEW.id);
    END;
    CREATE TRIGGER sandbox_deleted AFTER DELETE ON sandboxes WHEN OLD.phase <> 'creating' BEGIN
        INSERT INTO events (namespace, object, kind, id, data)
        VALUES (OLD.namespace, 'sandbox', 'deleted', OLD.id, OLD.data);
    END;
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
