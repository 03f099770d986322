# SPDX-License-Identifier: Apache-2.0
"""The database: one connection, transactions, and typed rows that are decoded once per change.

Owns SQL. SQLite in WAL mode with synchronous=NORMAL: killing the process loses nothing, a power cut may lose
the last transactions but never damages; recovery compares with the disk anyway.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from oakum.engine.storage import storage_error
from oakum.engine.store import headroom
from oakum.engine.store.records import (
    ContainerRecord,
    EventRecord,
    ImageName,
    ImageRecord,
    SandboxRecord,
)
from oakum.engine.store.schema import migrate
from oakum.errors import AlreadyExists, DataLoss, OakumError, ResourceExhausted, SystemFailure, Unavailable

_BUSY_TIMEOUT_S = 30.0
_encode = msgspec.json.Encoder().encode
_sandbox_decoder = msgspec.json.Decoder(SandboxRecord)
_container_decoder = msgspec.json.Decoder(ContainerRecord)
_image_decoder = msgspec.json.Decoder(ImageRecord)

# So many rows are read in less than the time of a thread's turn.
_PROMPT_ROWS = 64

R = TypeVar("R", SandboxRecord, ContainerRecord, ImageRecord)


class WouldWait(Exception):
    """What was asked for at once (`Store.at_once`) cannot be had so. Told to nobody outside of the engine."""


class Store:
    """The engine's rows. Thread-safe; one writer at a time, over all processes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._depth = 0
        self._prompt = False
        # id → (the row's bytes, its decoded value): a row is decoded again only when its bytes changed.
        self._decoded: dict[str, tuple[bytes, Any]] = {}
        self._listings: dict[str, tuple[tuple[int, int], Any]] = {}
        self.writable = True
        try:
            headroom.adjust(os.path.dirname(path) or ".")
            # Before SQLite makes it (and its log beside it, with the same mode) readable for everybody.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            if error.errno != errno.EROFS or not os.path.exists(path):
                raise storage_error(error, "open database", path) from error
            self.writable = False
        try:
            if not self.writable:
                from oakum.model.readonly import open_read_only  # hardly ever

                self._connection = open_read_only(path, timeout_s=_BUSY_TIMEOUT_S)
                migrate(self._connection, path)
                return
            self._connection = sqlite3.connect(
                path,
                timeout=_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            migrate(self._connection, path)
        except sqlite3.Error as error:
            raise _failure(error, "open database", path) from error

    def close(self) -> None:
        """Close the connection."""
        with self._guard:
            self._connection.close()

    def require_writable(self) -> None:
        """Refuse what would change anything, where nothing can be written. Raises SystemFailure."""
        if not self.writable:
            raise storage_error(OSError(errno.EROFS, ""), "change database", self._path)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing, with the write lock held from the start; may be nested within one thread.

        Raises:
            Unavailable: another process kept the database for over half a minute.
        """
        with self._guard:
            if self._prompt:
                raise WouldWait
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._run("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._run("COMMIT")
            except BaseException:  # no space among them: what was not committed must not stay open
                self._roll_back()
                raise
            finally:
                self._depth = 0

    @contextmanager
    def at_once(self) -> Generator[None]:
        """For reading without waiting: other threads are kept out, transactions and long listings refused.

        Raises:
            WouldWait: now, or by what is asked for within.
        """
        if not self._guard.acquire(blocking=False):
            raise WouldWait
        self._prompt = True
        try:
            yield
        finally:
            self._prompt = False
            self._guard.release()

    def _roll_back(self) -> None:
        # Some errors (a full disk among them) have made SQLite do it already.
        if self._connection.in_transaction:
            self._run("ROLLBACK")

    def _run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            failure = _failure(error, "use database", self._path)
            # Of a transaction SQLite may have taken back all: one statement of it must not be done alone.
            if not isinstance(failure, ResourceExhausted) or self._depth:
                raise failure from error
        try:
            return self._connection.execute(statement, values)  # in the space that was just given back
        except sqlite3.Error as error:
            raise _failure(error, "use database", self._path) from error

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._guard:
            return self._run(statement, values).fetchall()

    def _change_counter(self) -> tuple[int, int]:
        """Differs whenever anybody has changed anything: data_version counts others' commits, the other ours."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return version, self._connection.total_changes

    def _decode(self, decoder: msgspec.json.Decoder[R], key: str, data: bytes) -> R:
        known = self._decoded.get(key)
        if known is not None and known[0] == data:
            return known[1]
        try:
            value = decoder.decode(data)
        except msgspec.DecodeError as error:
            raise DataLoss(
                "read row", key, str(error), hint=f"the database {self._path} is damaged"
            ) from error
        self._decoded[key] = (data, value)
        return value

    def _listing(
        self, decoder: msgspec.json.Decoder[R], name: str, statement: str, values: Sequence[Any] = ()
    ) -> tuple[R, ...]:
        """All rows of a kind, kept until something changes."""
        with self._guard:
            counter = self._change_counter()
            known = self._listings.get(name)
            if self._prompt and known is not None and len(known[1]) > _PROMPT_ROWS:
                raise WouldWait
            if known is not None and known[0] == counter and not self._depth:
                return known[1]
            rows = self._run(statement, values).fetchall()
            found = tuple(self._decode(decoder, key, data) for key, data in rows)
            if not self._depth:  # what a transaction sees may yet be rolled back
                self._listings[name] = (counter, found)
            return found

    # namespaces

    def namespaces(self) -> list[str]:
        """The names of all namespaces."""
        return [name for (name,) in self._rows("SELECT name FROM namespaces ORDER BY name")]

    def add_namespace(self, name: str) -> bool:
        """Make a namespace known; whether it is new."""
        with self._guard:
            cursor = self._run(
                "INSERT INTO namespaces (name, created_at_ns) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (name, time.time_ns()),
            )
            return cursor.rowcount == 1

    def remove_namespace(self, name: str) -> None:
        """Forget a namespace."""
        with self.transaction():
            self._run("DELETE FROM namespaces WHERE name = ?", (name,))

    # sandboxes

    def put_sandbox(self, record: SandboxRecord) -> None:
        """Insert a sandbox. Raises AlreadyExists when its name is taken."""
        with self._guard:
            try:
                self._run(
                    "INSERT INTO sandboxes (id, namespace, name_key, phase, created_at_ns, data)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        record.id,
                        record.namespace,
                        record.name_key,
                        record.phase,
                        record.created_at_ns,
                        _encode(record),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists("reserve sandbox name", repr(record.name_key), "it is taken") from error

    def update_sandbox(self, record: SandboxRecord) -> bool:
        """Replace a sandbox's row; whether there was one."""
        with self._guard:
            cursor = self._run(
                "UPDATE sandboxes SET phase = ?, data = ? WHERE id = ?",
                (record.phase, _encode(record), record.id),
            )
            return cursor.rowcount == 1

    def delete_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox."""
        with self._guard:
            self._run("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))
            self._decoded.pop(sandbox_id, None)

    def sandbox(self, sandbox_id: str) -> SandboxRecord | None:
        """One sandbox by its whole id, over all namespaces."""
        with self._guard:
            row = self._run("SELECT data FROM sandboxes WHERE id = ?", (sandbox_id,)).fetchone()
            return None if row is None else self._decode(_sandbox_decoder, sandbox_id, row[0])

    def sandbox_by_name(self, namespace: str, name_key: str) -> SandboxRecord | None:
        """The sandbox that has reserved a name."""
        with self._guard:
            row = self._run(
                "SELECT id, data FROM sandboxes WHERE namespace = ? AND name_key = ?", (namespace, name_key)
            ).fetchone()
            return None if row is None else self._decode(_sandbox_decoder, row[0], row[1])

    def sandboxes(self, namespace: str = "") -> tuple[SandboxRecord, ...]:
        """The sandboxes of a namespace (or of all), newest first."""
        if not namespace:
            return self._listing(
                _sandbox_decoder, "sandboxes", "SELECT id, data FROM sandboxes ORDER BY created_at_ns DESC"
            )
        return self._listing(
            _sandbox_decoder,
            f"sandboxes {namespace}",
            "SELECT id, data FROM sandboxes WHERE namespace = ? ORDER BY created_at_ns DESC",
            (namespace,),
        )

    # containers

    def put_container(self, record: ContainerRecord) -> None:
        """Insert a container. Raises AlreadyExists when its name is taken."""
        with self._guard:
            try:
                self._run(
                    "INSERT INTO containers (id, namespace, sandbox_id, name_key, phase, created_at_ns, data)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        record.id,
                        record.namespace,
                        record.sandbox_id,
                        record.name_key,
                        record.phase,
                        record.created_at_ns,
                        _encode(record),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists("reserve container name", repr(record.name_key), "it is taken") from error

    def update_container(self, record: ContainerRecord) -> bool:
        """Replace a container's row; whether there was one."""
        with self._guard:
            cursor = self._run(
                "UPDATE containers SET phase = ?, data = ? WHERE id = ?",
                (record.phase, _encode(record), record.id),
            )
            return cursor.rowcount == 1

    def rename(self, container: ContainerRecord, sandbox: SandboxRecord) -> None:
        """Replace both rows; the container's has a new name. Raises AlreadyExists: it is taken."""
        with self.transaction():
            try:
                self._run(
                    "UPDATE containers SET name_key = ?, data = ? WHERE id = ?",
                    (container.name_key, _encode(container), container.id),
                )
            except sqlite3.IntegrityError as error:
                raise AlreadyExists("rename", repr(container.name_key), "it is taken") from error
            self.update_sandbox(sandbox)

    def delete_container(self, container_id: str) -> None:
        """Forget a container."""
        with self._guard:
            self._run("DELETE FROM containers WHERE id = ?", (container_id,))
            self._decoded.pop(container_id, None)

    def container(self, container_id: str) -> ContainerRecord | None:
        """One container by its whole id, over all namespaces."""
        with self._guard:
            row = self._run("SELECT data FROM containers WHERE id = ?", (container_id,)).fetchone()
            return None if row is None else self._decode(_container_decoder, container_id, row[0])

    def container_by_name(self, namespace: str, name_key: str) -> ContainerRecord | None:
        """The container that has reserved a name."""
        with self._guard:
            row = self._run(
                "SELECT id, data FROM containers WHERE namespace = ? AND name_key = ?", (namespace, name_key)
            ).fetchone()
            return None if row is None else self._decode(_container_decoder, row[0], row[1])

    def containers(self, namespace: str = "") -> tuple[ContainerRecord, ...]:
        """The containers of a namespace (or of all), newest first."""
        if not namespace:
            return self._listing(
                _container_decoder,
                "containers",
                "SELECT id, data FROM containers ORDER BY created_at_ns DESC",
            )
        return self._listing(
            _container_decoder,
            f"containers {namespace}",
            "SELECT id, data FROM containers WHERE namespace = ? ORDER BY created_at_ns DESC",
            (namespace,),
        )

    def containers_of(self, sandbox_id: str) -> list[ContainerRecord]:
        """The containers of one sandbox, oldest first."""
        with self._guard:
            rows = self._rows(
                "SELECT id, data FROM containers WHERE sandbox_id = ? ORDER BY created_at_ns", (sandbox_id,)
            )
            return [self._decode(_container_decoder, key, data) for key, data in rows]

    # ids

    def ids_beginning(self, table: str, namespace: str, text: str) -> list[str]:
        """The ids of a namespace's "sandboxes" or "containers" that begin with `text`."""
        assert table in ("sandboxes", "containers")
        # '~' sorts after every hexadecimal digit, so this range is the prefix.
        return [
            row[0]
            for row in self._rows(
                f"SELECT id FROM {table} WHERE id >= ? AND id < ? AND namespace = ? LIMIT 20",  # noqa: S608 - one of two names
                (text, text + "~", namespace),
            )
        ]

    def unsettled(self) -> tuple[list[str], list[str]]:
        """The ids of sandboxes and containers in a passing phase."""
        with self._guard:
            sandboxes = self._rows("SELECT id FROM sandboxes WHERE phase NOT IN ('ready', 'stopped')")
            containers = self._rows("SELECT id FROM containers WHERE phase NOT IN ('created', 'started')")
        return [row[0] for row in sandboxes], [row[0] for row in containers]

    # events

    def last_event(self) -> int:
        """The number of the latest event; 0 before the first."""
        rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return rows[0][0] if rows else 0

    def events_after(self, namespace: str, seq: int) -> list[EventRecord]:
        """What happened in a namespace after event `seq`, oldest first.

        Raises:
            ResourceExhausted: so much has happened since that the oldest of it is forgotten.
        """
        with self.transaction():
            rows = self._rows(
                "SELECT seq, object, kind, id, data FROM events WHERE seq > ? AND namespace = ? ORDER BY seq",
                (seq, namespace),
            )
            oldest = self._rows("SELECT min(seq) FROM events")[0][0]
        if oldest is not None and oldest > seq + 1:
            raise ResourceExhausted(
                "read events", self._path, f"{oldest - seq - 1} events were dropped before they were read"
            )
        found: list[EventRecord] = []
        for number, kind_of_object, kind, key, data in rows:
            decoder = _sandbox_decoder if kind_of_object == "sandbox" else _container_decoder
            row = None if data is None else decoder.decode(data)
            found.append(EventRecord(seq=number, object=kind_of_object, kind=kind, id=key, row=row))
        return found

    def changes(self) -> tuple[int, int]:
        """Differs from before whenever anybody has changed anything."""
        with self._guard:
            return self._change_counter()

    # images

    def put_image(self, record: ImageRecord, names: Sequence[ImageName]) -> None:
        """An image that is all here, and its names; a name that another image had is moved."""
        with self.transaction():
            self._run(
                "INSERT INTO images (manifest_digest, data) VALUES (?, ?)"
                " ON CONFLICT (manifest_digest) DO UPDATE SET data = excluded.data",
                (record.manifest_digest, _encode(record)),
            )
            for name in names:
                self.put_image_name(name)

    def put_image_name(self, name: ImageName) -> None:
        """Give an image a name, taking it from another."""
        with self._guard:
            self._run(
                "INSERT INTO image_names (namespace, name, manifest_digest, target_digest, created_at_ns)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (namespace, name) DO UPDATE SET"
                " manifest_digest = excluded.manifest_digest, target_digest = excluded.target_digest,"
                " created_at_ns = excluded.created_at_ns",
                (name.namespace, name.name, name.manifest_digest, name.target_digest, name.created_at_ns),
            )

    def delete_image_names(self, namespace: str, names: Sequence[str]) -> None:
        """Forget names."""
        with self.transaction():
            for name in names:
                self._run("DELETE FROM image_names WHERE namespace = ? AND name = ?", (namespace, name))

    def image_names(self, namespace: str = "") -> list[ImageName]:
        """The names of a namespace (or of all), in their order."""
        columns = "namespace, name, manifest_digest, target_digest, created_at_ns"
        query = f"SELECT {columns} FROM image_names"  # noqa: S608 - names of columns
        rows = (
            self._rows(f"{query} WHERE namespace = ? ORDER BY name", (namespace,))
            if namespace
            else self._rows(f"{query} ORDER BY name")
        )
        return [
            ImageName(
                namespace=space,
                name=name,
                manifest_digest=digest,
                target_digest=target,
                created_at_ns=created,
            )
            for space, name, digest, target, created in rows
        ]

    def image_by_name(self, namespace: str, name: str) -> ImageRecord | None:
        """The image that has a name."""
        with self._guard:
            row = self._run(
                "SELECT images.manifest_digest, images.data FROM image_names"
                " JOIN images USING (manifest_digest) WHERE namespace = ? AND name = ?",
                (namespace, name),
            ).fetchone()
            return None if row is None else self._decode(_image_decoder, row[0], row[1])

    def image(self, manifest_digest: str) -> ImageRecord | None:
        """One image by its manifest's digest, over all namespaces."""
        with self._guard:
            row = self._run(
                "SELECT data FROM images WHERE manifest_digest = ?", (manifest_digest,)
            ).fetchone()
            return None if row is None else self._decode(_image_decoder, manifest_digest, row[0])

    def images(self) -> tuple[ImageRecord, ...]:
        """All images that are here, named or not."""
        return self._listing(_image_decoder, "images", "SELECT manifest_digest, data FROM images")

    def delete_images(self, manifest_digests: Sequence[str]) -> None:
        """Forget images that have no names."""
        with self.transaction():
            for digest in manifest_digests:
                self._run("DELETE FROM images WHERE manifest_digest = ?", (digest,))
                self._decoded.pop(digest, None)


def _failure(error: sqlite3.Error, operation: str, path: str) -> OakumError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return Unavailable(operation, path, text, hint="another oakum process keeps it; try again")
    if "full" in text or ("I/O" in text and _no_space(path)):
        headroom.adjust(os.path.dirname(path) or ".")  # so that the next try may succeed
        return ResourceExhausted(
            operation, path, "no space left on device", hint="remove images or containers"
        )
    if "readonly" in text:
        return storage_error(OSError(errno.EROFS, ""), operation, path)
    if isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text):
        return DataLoss(operation, path, text, hint="restore it from a backup or remove the root directory")
    return SystemFailure(operation, path, text)


def _no_space(path: str) -> bool:
    # SQLite does not say why a log could not be made: "disk I/O error", also where there was no page left for it
    disk = os.statvfs(os.path.dirname(path) or ".")
    return not (disk.f_bavail if os.geteuid() else disk.f_bfree)
