# SPDX-License-Identifier: Apache-2.0
"""network.db: networks, who is attached with which address, and who has which host port.

Owns all SQL of the network. Every change is one transaction that begins with the write lock (BEGIN IMMEDIATE), so
processes take turns and a killed one leaves nothing half done.
"""

from __future__ import annotations

import ipaddress
import os
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from oakum.errors import AlreadyExists, SystemFailure
from oakum.network.attachment import INTERFACE
from oakum.network.pool import next_offset
from oakum.network.ports import Binding

_BUSY_S: Final = 60.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS networks (
    name TEXT PRIMARY KEY, bridge TEXT NOT NULL UNIQUE, subnet4 TEXT NOT NULL, subnet6 TEXT NOT NULL,
    last_offset INTEGER NOT NULL DEFAULT 1) STRICT;
CREATE TABLE IF NOT EXISTS attachments (
    sandbox_id TEXT PRIMARY KEY, network TEXT NOT NULL REFERENCES networks (name), netns_path TEXT NOT NULL,
    hostname TEXT NOT NULL, host_interface TEXT NOT NULL UNIQUE, offset INTEGER NOT NULL,
    mtu INTEGER NOT NULL DEFAULT 0, has_ipv6 INTEGER NOT NULL DEFAULT 0, UNIQUE (network, offset)) STRICT;
CREATE TABLE IF NOT EXISTS ports (
    protocol TEXT NOT NULL, host_ip TEXT NOT NULL, host_port INTEGER NOT NULL, container_port INTEGER NOT NULL,
    sandbox_id TEXT NOT NULL REFERENCES attachments (sandbox_id) ON DELETE CASCADE,
    PRIMARY KEY (protocol, host_ip, host_port)) STRICT;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS ports_of_sandbox ON ports (sandbox_id);
PRAGMA user_version = 1;
"""
# Each brings the database from its place in this list to the next version.
_CHANGES: Final = (
    """
ALTER TABLE networks ADD COLUMN mtu INTEGER NOT NULL DEFAULT 0;
ALTER TABLE networks ADD COLUMN internal INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attachments ADD COLUMN mac TEXT NOT NULL DEFAULT '';
ALTER TABLE attachments ADD COLUMN ingress INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attachments ADD COLUMN egress INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 2;
""",
    # Ports lose their foreign key: a sandbox may have several attachments now, and dropping the table that a key leads
    # to would delete them.
    """
CREATE TABLE held (
    protocol TEXT NOT NULL, host_ip TEXT NOT NULL, host_port INTEGER NOT NULL, container_port INTEGER NOT NULL,
    sandbox_id TEXT NOT NULL, PRIMARY KEY (protocol, host_ip, host_port)) STRICT;
INSERT INTO held SELECT protocol, host_ip, host_port, container_port, sandbox_id FROM ports;
DROP TABLE ports;
ALTER TABLE held RENAME TO ports;
CREATE INDEX ports_of_sandbox ON ports (sandbox_id);
CREATE TABLE joined (
    sandbox_id TEXT NOT NULL, network TEXT NOT NULL REFERENCES networks (name), netns_path TEXT NOT NULL,
    hostname TEXT NOT NULL, host_interface TEXT NOT NULL UNIQUE, offset INTEGER NOT NULL,
    mtu INTEGER NOT NULL DEFAULT 0, has_ipv6 INTEGER NOT NULL DEFAULT 0, mac TEXT NOT NULL DEFAULT '',
    ingress INTEGER NOT NULL DEFAULT 0, egress INTEGER NOT NULL DEFAULT 0, interface TEXT NOT NULL,
    names TEXT NOT NULL, aliases TEXT NOT NULL, PRIMARY KEY (sandbox_id, network), UNIQUE (sandbox_id, interface),
    UNIQUE (network, offset)) STRICT;
INSERT INTO joined SELECT sandbox_id, network, netns_path, hostname, host_interface, offset, mtu, has_ipv6, mac, ingress,
    egress, 'eth0', '', '' FROM attachments ORDER BY rowid;
DROP TABLE attachments;
ALTER TABLE joined RENAME TO attachments;
CREATE TABLE due (sandbox_id TEXT NOT NULL, what TEXT NOT NULL, turn INTEGER NOT NULL,
    PRIMARY KEY (sandbox_id, what)) STRICT;
PRAGMA user_version = 3;
""",
    # A sandbox may come back while its old link is there, at another address.
    """
CREATE TABLE leaving (host_interface TEXT NOT NULL, network TEXT NOT NULL, offset INTEGER NOT NULL,
    since_s REAL NOT NULL, PRIMARY KEY (host_interface, network, offset)) STRICT;
PRAGMA user_version = 4;
""",
)
_VERSION: Final = 1 + len(_CHANGES)

_OF_SANDBOXES: Final = ("attachments", "ports", "due")
_ATTACHMENTS: Final = (
    "SELECT sandbox_id, network, netns_path, hostname, host_interface, offset, mtu, has_ipv6, mac, ingress, egress,"
    " interface, names, aliases FROM attachments"
)


class NetworkRow(NamedTuple):
    """A network; `subnet6` is None where it has no IPv6. `mtu` 0 follows the host's uplink; `internal` has no way out."""

    name: str
    bridge: str
    subnet4: ipaddress.IPv4Network
    subnet6: ipaddress.IPv6Network | None
    mtu: int = 0
    internal: bool = False


class AttachmentRow(NamedTuple):
    """A sandbox's place in one network; `offset` counts from the start of both subnets.

    `mac` is empty where it follows from the address; `ingress` and `egress` are limits in bits a second, 0 for none.
    `names` and `aliases`, apart by blanks, are what hosts files call it; see `names`.
    """

    sandbox_id: str
    network: str
    netns_path: str
    hostname: str
    host_interface: str
    offset: int
    mtu: int
    has_ipv6: bool
    mac: str = ""
    ingress: int = 0
    egress: int = 0
    interface: str = INTERFACE
    names: str = ""
    aliases: str = ""


class Due(NamedTuple):
    """Something that is owed to a sandbox: "names" in its hosts file, or its "networks" as they were asked for.

    `turn` tells whether it came to be owed once more since it was read.
    """

    sandbox_id: str
    what: str
    turn: int


class LeavingRow(NamedTuple):
    """A link of a sandbox that has left, which may still be there; `since_s` is of the machine's monotonic clock."""

    host_interface: str
    network: str
    offset: int
    since_s: float


class PublishedPort(NamedTuple):
    """A host port and where it leads."""

    binding: Binding
    address: str


def _connect(path: str) -> sqlite3.Connection:
    try:
        # Not `access` alone: it may be there before long.
        if os.path.exists(path) and not os.access(path, os.W_OK):
            from oakum.model.readonly import open_read_only  # hardly ever

            return open_read_only(path, timeout_s=_BUSY_S)
        return sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
    except sqlite3.Error as error:
        raise _failure(error, "open network database", path) from error


def _failure(error: Exception, operation: str, path: str) -> SystemFailure:
    from oakum.model.readonly import HINT, refused  # only what fails asks

    return SystemFailure(operation, path, str(error), hint=HINT if refused(error, path) else "")


class NetworkDatabase:
    """One connection to network.db. Not thread-safe: the caller holds a lock."""

    def __init__(self, path: str) -> None:
        """Open or make the database at `path`. Raises SystemFailure."""
        self.path = path
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
            self._connection = _connect(path)
        except OSError as error:
            raise _failure(error, "open network database", path) from error
        try:
            self._connection.execute("PRAGMA foreign_keys = ON")
            # A power cut may take the last changes, never the database; after it the sandboxes are gone, too.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            if self._version() != _VERSION:
                self._bring_up_to_date()
        except sqlite3.Error as error:
            self._connection.close()
            raise _failure(error, "open network database", path) from error
        except SystemFailure:
            self._connection.close()
            raise

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _bring_up_to_date(self) -> None:
        if self._version() == 0:
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            # Looked at again within the transaction: another process may have been quicker.
            version = self._version()
            if version > _VERSION:
                raise SystemFailure(
                    "open network database",
                    self.path,
                    f"it has version {version}, newer than {_VERSION}",
                    hint="a newer oakum has used it",
                )
            for script in (_SCHEMA, *_CHANGES)[version:]:
                for statement in script.split(";"):
                    self._connection.execute(statement)
            self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def close(self) -> None:
        """Close it; twice is fine."""
        self._connection.close()

    @contextmanager
    def change(self) -> Generator[None]:
        """A transaction that no other process's change overlaps; rolled back when the block raises."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise _failure(error, "lock network database", self.path) from error
        try:
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise _failure(error, "change network database", self.path) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _query(self, statement: str, *values: str | float) -> list[tuple[str, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise SystemFailure("read network database", self.path, str(error)) from error

    def networks(self) -> list[NetworkRow]:
        """All networks."""
        rows = self._query("SELECT name, bridge, subnet4, subnet6, mtu, internal FROM networks ORDER BY name")
        return [
            NetworkRow(
                name,
                bridge,
                ipaddress.IPv4Network(subnet4),
                ipaddress.IPv6Network(subnet6) if subnet6 else None,
                int(mtu),
                bool(internal),
            )
            for name, bridge, subnet4, subnet6, mtu, internal in rows
        ]

    def network(self, name: str) -> NetworkRow | None:
        """The network called `name`."""
        return next((network for network in self.networks() if network.name == name), None)

    def put_network(self, network: NetworkRow) -> None:
        """Add or change a network; within `change`."""
        self._connection.execute(
            "INSERT INTO networks (name, bridge, subnet4, subnet6, mtu, internal) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET bridge = excluded.bridge, subnet4 = excluded.subnet4,"
            " subnet6 = excluded.subnet6, mtu = excluded.mtu, internal = excluded.internal",
            (
                network.name,
                network.bridge,
                str(network.subnet4),
                str(network.subnet6 or ""),
                network.mtu,
                network.internal,
            ),
        )

    def drop_network(self, name: str) -> None:
        """Forget a network; within `change`."""
        self._connection.execute("DELETE FROM leaving WHERE network = ?", (name,))
        self._connection.execute("DELETE FROM networks WHERE name = ?", (name,))

    def attachments(self) -> list[AttachmentRow]:
        """All attachments."""
        return self._attachments("")

    def attachment(self, sandbox_id: str) -> AttachmentRow | None:
        """The first attachment of a sandbox."""
        return next(iter(self.attachments_of(sandbox_id)), None)

    def attachments_of(self, sandbox_id: str) -> list[AttachmentRow]:
        """The attachments of a sandbox, the oldest first."""
        return self._attachments(" WHERE sandbox_id = ?", sandbox_id)

    def knows(self, sandbox_id: str) -> bool:
        """Whether a sandbox has anything: a place in a network, ports, or what is owed to it."""
        return any(
            self._query(f"SELECT 1 FROM {table} WHERE sandbox_id = ? LIMIT 1", sandbox_id)  # noqa: S608 - ours
            for table in _OF_SANDBOXES
        )

    def attachments_to(self, network: str) -> list[AttachmentRow]:
        """The attachments to a network, the oldest first."""
        return self._attachments(" WHERE network = ?", network)

    def _attachments(self, condition: str, *values: str) -> list[AttachmentRow]:
        rows = self._query(f"{_ATTACHMENTS}{condition} ORDER BY rowid", *values)
        return [
            AttachmentRow(
                row[0],
                row[1],
                row[2],
                row[3],
                row[4],
                int(row[5]),
                int(row[6]),
                bool(row[7]),
                row[8],
                int(row[9]),
                int(row[10]),
                row[11],
                row[12],
                row[13],
            )
            for row in rows
        ]

    def allocate(
        self, network: NetworkRow, wanted: AttachmentRow, *, chosen: int | None = None
    ) -> AttachmentRow:
        """Give a sandbox the address at the offset `chosen`, or the next; within `change`.

        Raises:
            AlreadyExists: another sandbox has the chosen one, or has left it a moment ago.
            ResourceExhausted: none is left.
        """
        # Its own old link is no hindrance: it is deleted before the new one is made.
        used = {
            int(row[0]): row[1]
            for row in self._query(
                "SELECT offset, 'interface ' || host_interface FROM leaving WHERE network = ?1 AND host_interface != ?2"
                " UNION ALL SELECT offset, 'sandbox ' || substr(sandbox_id, 1, 12) FROM attachments WHERE network = ?1",
                network.name,
                wanted.host_interface,
            )
        }
        if chosen is None:
            ((last,),) = self._query("SELECT last_offset FROM networks WHERE name = ?", network.name)
            offset = next_offset(network.subnet4.num_addresses, int(last), used)
        elif chosen in used:
            raise AlreadyExists("assign address", str(network.subnet4[chosen]), f"{used[chosen]} has it")
        else:
            offset = chosen
        row = wanted._replace(offset=offset)
        self._connection.execute(
            "INSERT INTO attachments (sandbox_id, network, netns_path, hostname, host_interface, offset, mtu, has_ipv6,"
            " mac, ingress, egress, interface, names, aliases) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        if chosen is None:
            self._connection.execute(
                "UPDATE networks SET last_offset = ? WHERE name = ?", (offset, network.name)
            )
        return row

    def update_attachment(self, row: AttachmentRow) -> None:
        """Change where a sandbox's namespace is, what its link is like and how it is called; within `change`."""
        self._connection.execute(
            "UPDATE attachments SET netns_path = ?, hostname = ?, mtu = ?, has_ipv6 = ?, mac = ?, ingress = ?,"
            " egress = ?, names = ?, aliases = ? WHERE sandbox_id = ? AND network = ?",
            (
                row.netns_path,
                row.hostname,
                row.mtu,
                row.has_ipv6,
                row.mac,
                row.ingress,
                row.egress,
                row.names,
                row.aliases,
                row.sandbox_id,
                row.network,
            ),
        )

    def note(self, name: str) -> str:
        """What was noted under `name`; "" when nothing was."""
        return next((row[0] for row in self._query("SELECT value FROM notes WHERE name = ?", name)), "")

    def put_note(self, name: str, value: str) -> None:
        """Note something for other processes; within `change`."""
        self._connection.execute("INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?)", (name, value))

    def release(self, sandbox_id: str) -> None:
        """Forget all of a sandbox: addresses, ports, and what is owed to it; its links are leaving. Within `change`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO leaving SELECT host_interface, network, offset, ? FROM attachments"
            " WHERE sandbox_id = ?",
            (time.monotonic(), sandbox_id),
        )
        for table in _OF_SANDBOXES:
            self._connection.execute(f"DELETE FROM {table} WHERE sandbox_id = ?", (sandbox_id,))  # noqa: S608 - ours

    def leave(self, sandbox_id: str, network: str) -> None:
        """Forget a sandbox's place in one network; within `change`."""
        self._connection.execute(
            "DELETE FROM attachments WHERE sandbox_id = ? AND network = ?", (sandbox_id, network)
        )

    def leaving(self) -> list[LeavingRow]:
        """The links that are to go, the oldest first; not those whose sandbox comes back, who replaces them itself."""
        rows = self._query(
            "SELECT host_interface, network, offset, since_s FROM leaving"
            " WHERE host_interface NOT IN (SELECT host_interface FROM attachments) ORDER BY since_s"
        )
        return [LeavingRow(row[0], row[1], int(row[2]), float(row[3])) for row in rows]

    def forget(self, gone: Sequence[LeavingRow]) -> None:
        """Free the addresses of links that are gone, unless they came and left once more since; within `change`."""
        self._connection.executemany(
            "DELETE FROM leaving WHERE host_interface = ? AND network = ? AND offset = ? AND since_s = ?",
            gone,
        )

    def come_back(self, host_interface: str) -> None:
        """The link of this name is a new one: what was before it is gone; within `change`."""
        self._connection.execute("DELETE FROM leaving WHERE host_interface = ?", (host_interface,))

    def owe(self, sandbox_id: str, what: str) -> None:
        """Note that something is owed to a sandbox; within `change`."""
        self._connection.execute(
            "INSERT INTO due VALUES (?, ?, 1) ON CONFLICT (sandbox_id, what) DO UPDATE SET turn = turn + 1",
            (sandbox_id, what),
        )

    def due(self, what: str) -> list[Due]:
        """What is owed of one kind."""
        rows = self._query("SELECT sandbox_id, turn FROM due WHERE what = ?", what)
        return [Due(row[0], what, int(row[1])) for row in rows]

    def settle(self, due: Due) -> None:
        """Forget what was owed, unless it came to be owed once more since; within `change`."""
        self._connection.execute("DELETE FROM due WHERE sandbox_id = ? AND what = ? AND turn = ?", due)

    def bindings(self, sandbox_id: str) -> list[Binding]:
        """The host ports of a sandbox."""
        rows = self._query(
            "SELECT protocol, host_ip, host_port, container_port FROM ports WHERE sandbox_id = ?", sandbox_id
        )
        return [Binding(row[0], row[1], int(row[2]), int(row[3])) for row in rows]

    def reserve(self, sandbox_id: str, bindings: Sequence[Binding]) -> None:
        """Take host ports for a sandbox; within `change`.

        Raises:
            AlreadyExists: another sandbox has one.
        """
        for wanted in bindings:
            rows = self._query(
                "SELECT protocol, host_ip, host_port, container_port, sandbox_id FROM ports"
                " WHERE protocol = ? AND host_port = ?",
                wanted.protocol,
                wanted.host_port,
            )
            for row in rows:
                held = Binding(row[0], row[1], int(row[2]), int(row[3]))
                if row[4] != sandbox_id and wanted.clashes_with(held):
                    raise AlreadyExists(
                        "publish port",
                        str(wanted),
                        f"sandbox {row[4][:12]} has {held}",
                        hint="stop that sandbox or choose another host port",
                    )
            self._connection.execute(
                "INSERT OR REPLACE INTO ports (protocol, host_ip, host_port, container_port, sandbox_id)"
                " VALUES (?, ?, ?, ?, ?)",
                (*wanted, sandbox_id),
            )

    def drop_ports(self, sandbox_id: str) -> None:
        """Give back the host ports of a sandbox; within `change`."""
        self._connection.execute("DELETE FROM ports WHERE sandbox_id = ?", (sandbox_id,))
