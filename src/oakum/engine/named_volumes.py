# SPDX-License-Identifier: Apache-2.0
"""Named volumes: directories that outlive their containers, one set in each namespace.

Owns ROOT/volumes/NAMESPACE/NAME/{volume.json,data}. The directory is the truth, there is no row: it appears whole by a
rename, and goes whole by one. Whoever makes or removes one holds volumes/lock, so a name with a dot in front is
what a killed process left.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import msgspec

from oakum.engine.context import Context
from oakum.engine.storage import remove_directory, storing
from oakum.engine.volumes import copy_place
from oakum.errors import FailedPrecondition, NotFound
from oakum.linux.durable import write_file
from oakum.linux.fd import Fd
from oakum.model.ids import check_name
from oakum.model.rootfs import RootfsSource

_DATA = "data"
_ABOUT = "volume.json"


class _About(msgspec.Struct):
    created_at_ns: int = 0
    labels: dict[str, str] = {}


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A volume: where it lies, and the ids of the containers that mount it."""

    name: str
    path: str
    created_at_ns: int
    labels: dict[str, str]
    used_by: tuple[str, ...]


class NamedVolumes:
    """The named volumes of one namespace."""

    def __init__(self, context: Context, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        self._directory = f"{context.layout.volumes}/{namespace}"

    def list(self) -> Sequence[VolumeInfo]:
        """All, by name."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        users = self._users()
        return [self._info(name, users) for name in sorted(names) if not name.startswith(".")]

    def find(self, name: str) -> VolumeInfo:
        """One of them. Raises NotFound."""
        if name.startswith(".") or "/" in name or not os.path.isdir(f"{self._directory}/{name}"):
            raise NotFound("find volume", repr(name), "no such volume", hint="oakum volume ls")
        return self._info(name, self._users())

    def create(self, name: str, labels: dict[str, str]) -> VolumeInfo:
        """Make an empty one; one that is there already is left as it is. Raises InvalidArgument."""
        check_name("volume", name)
        with self._changing():
            if not os.path.isdir(f"{self._directory}/{name}"):
                self._make(name, labels)
        return self.find(name)

    def ensure(self, name: str, container_id: str, source: RootfsSource | None, place: str) -> str:
        """The directory of a volume that a container mounts at `place`, made if need be.

        An empty one that nobody else mounts begins with what the image has there, unless `source` is None. The container's row is there
        already, so nobody removes it meanwhile.
        """
        check_name("volume", name)
        data = f"{self._directory}/{name}/{_DATA}"
        with self._changing(), storing("make volume", name):
            if not os.path.isdir(data):
                self._make(name, {})
            if (
                source is not None
                and not os.listdir(data)
                and set(self._users().get(name, ())) <= {container_id}
            ):
                partial = f"{self._directory}/{name}/.{_DATA}.partial"
                copy_place(source, place, partial)
                os.rename(partial, data)
        return data

    def remove(self, name: str) -> None:
        """Remove one with what is in it. Raises NotFound, FailedPrecondition while a container mounts it."""
        self.find(name)
        with self._changing():
            # In one transaction with the question: a new container enters its row before it looks for its volumes.
            with self._context.store.transaction(), storing("remove volume", name):
                if users := self._users().get(name):
                    raise FailedPrecondition(
                        "remove volume",
                        repr(name),
                        f"container {users[0][:12]} mounts it",
                        hint=f"oakum rm {users[0][:12]}",
                    )
                os.rename(f"{self._directory}/{name}", f"{self._directory}/.{name}.removed")
            remove_directory(self._directory, f".{name}.removed")

    def cleanup(self) -> None:
        """Remove what killed processes left half made or half removed."""
        if not os.path.isdir(self._directory):
            return
        with self._changing():
            for name in os.listdir(self._directory):
                if name.startswith("."):
                    remove_directory(self._directory, name)

    def _make(self, name: str, labels: dict[str, str]) -> None:
        partial = f"{self._directory}/.{name}.partial"
        with storing("make volume", name):
            remove_directory(self._directory, os.path.basename(partial))
            os.makedirs(f"{partial}/{_DATA}", mode=0o755)
            about = _About(created_at_ns=time.time_ns(), labels=labels)
            write_file(f"{partial}/{_ABOUT}", msgspec.json.encode(about))
            os.rename(partial, f"{self._directory}/{name}")

    @contextmanager
    def _changing(self) -> Generator[None]:
        with storing("lock volumes", self._context.layout.volumes):
            os.makedirs(self._directory, mode=0o711, exist_ok=True)
            fd = Fd(
                os.open(f"{self._context.layout.volumes}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            )
        with fd:
            fcntl.flock(fd.fileno(), fcntl.LOCK_EX)
            yield

    def _users(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for record in self._context.store.containers(self._namespace):
            for mount in record.config.mounts:
                if mount.volume:
                    found.setdefault(mount.volume, []).append(record.id)
        return found

    def _info(self, name: str, users: dict[str, list[str]]) -> VolumeInfo:
        directory = f"{self._directory}/{name}"
        try:
            with open(f"{directory}/{_ABOUT}", "rb") as file:
                about = msgspec.json.decode(file.read(), type=_About)
        except FileNotFoundError:
            about = _About()  # removed between our look and now
        return VolumeInfo(
            name=name,
            path=f"{directory}/{_DATA}",
            created_at_ns=about.created_at_ns,
            labels=about.labels,
            used_by=tuple(users.get(name, ())),
        )
