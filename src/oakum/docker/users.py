# SPDX-License-Identifier: Apache-2.0
"""Whom a container runs as, in Docker's words, so that the groups are those that CRI means.

Docker takes the image's groups of a user when no group is given, and none of them when one is. CRI wants them always
(Merge) or never (Strict), whichever way the group is said: for two of the four cases we read the image's files.
Source: passwd(5), group(5).
"""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from oakum.backend.config import ContainerConfig
from oakum.docker.client import DockerClient
from oakum.errors import DataLoss, InvalidArgument, NotFound

_FILE_MAX_BYTES: Final = 1 << 20
_KNOWN_IMAGES: Final = 200


class Accounts(NamedTuple):
    """What an image's /etc/passwd and /etc/group say; the first entry of a name counts."""

    users: dict[str, tuple[int, int]]
    names: dict[int, str]
    members: dict[str, tuple[int, ...]]


class Users:
    """The accounts in images. Thread-safe."""

    def __init__(self, client: DockerClient, probe_labels: Callable[[], dict[str, str]]) -> None:
        self._client = client
        self._probe_labels = probe_labels
        self._guard = threading.Lock()
        self._known: dict[str, Accounts] = {}

    def chosen(self, config: ContainerConfig, image_id: str, image_user: str) -> tuple[str, Sequence[str]]:
        """Docker's `User` and `GroupAdd` for a container. Raises InvalidArgument, OakumError."""
        text = config.user or image_user or "0"
        wanted = [str(group) for group in config.supplemental_groups]
        user, separator, group = text.partition(":")
        if bool(separator and group) == config.strict_groups:
            return text, wanted
        accounts = self.accounts(image_id)
        name = _name(user, accounts)
        if config.strict_groups:
            gid = accounts.users[name][1] if name in accounts.users else 0
            return f"{user}:{gid}", wanted
        merged = [*wanted, *(str(gid) for gid in accounts.members.get(name, ()))]
        return text, list(dict.fromkeys(merged))

    def accounts(self, image_id: str) -> Accounts:
        """The accounts of an image, read once from a container that never runs. Raises OakumError."""
        with self._guard:
            if image_id in self._known:
                return self._known[image_id]
        body = {"Image": image_id, "Entrypoint": ["/"], "Labels": self._probe_labels()}
        probe = str(self._client.post("/containers/create", body)["Id"])
        try:
            passwd, group = (self._read(probe, path) for path in ("/etc/passwd", "/etc/group"))
        finally:
            self._client.delete(f"/containers/{probe}", query={"force": 1, "v": 1})
        found = parse(passwd, group)
        with self._guard:
            if len(self._known) >= _KNOWN_IMAGES:
                self._known.pop(next(iter(self._known)))
            self._known[image_id] = found
        return found

    def _read(self, probe: str, path: str) -> str:
        try:
            with self._client.stream("GET", f"/containers/{probe}/archive", query={"path": path}) as answer:
                data = bytearray()
                while piece := answer.read():
                    data += piece
                    if len(data) > _FILE_MAX_BYTES + 4096:
                        raise DataLoss("read image", path, "more than 1 MiB")
        except NotFound:
            return ""
        try:
            with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
                entry = tar.next()
                file: Any = tar.extractfile(entry) if entry is not None and entry.isreg() else None
                return file.read(_FILE_MAX_BYTES).decode(errors="replace") if file is not None else ""
        except tarfile.TarError as error:
            raise DataLoss("read image", path, str(error)) from error


def parse(passwd: str, group: str) -> Accounts:
    """What the two files say; lines that are none are left out."""
    users: dict[str, tuple[int, int]] = {}
    names: dict[int, str] = {}
    for fields in _fields(passwd, 4):
        if fields[2].isdecimal() and fields[3].isdecimal():
            users.setdefault(fields[0], (int(fields[2]), int(fields[3])))
            names.setdefault(int(fields[2]), fields[0])
    members: dict[str, list[int]] = {}
    for fields in _fields(group, 4):
        if fields[2].isdecimal():
            for member in filter(None, fields[3].split(",")):
                members.setdefault(member, []).append(int(fields[2]))
    return Accounts(users, names, {name: tuple(gids) for name, gids in members.items()})


def _fields(text: str, count: int) -> list[list[str]]:
    lines = (line.strip().split(":") for line in text.splitlines() if not line.startswith("#"))
    return [fields for fields in lines if len(fields) >= count]


def _name(user: str, accounts: Accounts) -> str:
    """A user's name; "" for a number without one."""
    if user.isdecimal():
        return accounts.names.get(int(user), "")
    if user in accounts.users:
        return user
    raise InvalidArgument("create container", repr(user), "the image's /etc/passwd has no such user")
