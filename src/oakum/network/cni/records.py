# SPDX-License-Identifier: Apache-2.0
"""What the host remembers of its attachments, and who may change them: one file each, and locks of the kernel.

An attachment's file is there before its ADD and until its DEL has succeeded, so whoever comes after a killed process
knows what may have to be undone, with the very configuration that it was made with. This is the "cached result" of the
CNI specification and what it takes to use it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import struct
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple

from oakum.errors import DataLoss, InvalidArgument, SystemFailure
from oakum.linux.durable import write_file, write_file_fast
from oakum.network.cni.config import Json, NetworkList, parse_list, to_json
from oakum.network.cni.requests import Target

Phase = Literal["adding", "added", "deleting"]

_VERSION: Final = 1
_SUFFIX: Final = ".json"
# struct flock of fcntl(2): type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")
_GC_BYTE: Final = 0
# Where the second byte of each sandbox lies, for its plugins.
_PLUGINS: Final = 1 << 62
_PAUSE_S: Final = 0.01


class Record(NamedTuple):
    """One attachment. `result` is what ADD gave; `plugin_directories` is where its plugins were found."""

    sandbox_id: str
    network: NetworkList
    target: Target
    phase: Phase
    plugin_directories: tuple[str, ...]
    hostname: str = ""
    result: Json | None = None
    error: str = ""


def encode(record: Record) -> bytes:
    """The record as text for its file."""
    target = record.target
    return json.dumps(
        {
            "version": _VERSION,
            "sandboxId": record.sandbox_id,
            "phase": record.phase,
            "netns": target.netns_path,
            "ifName": target.interface,
            "cniArgs": target.arguments,
            "runtimeConfig": target.runtime_config,
            "config": to_json(record.network),
            "pluginDirectories": record.plugin_directories,
            "hostname": record.hostname,
            "result": record.result,
            "error": record.error,
        },
        indent=1,
    ).encode()


def decode(data: bytes, source: str) -> Record:
    """The record in a file. Raises DataLoss."""
    try:
        found: dict[str, Any] = json.loads(data)
        if found["version"] != _VERSION:
            raise ValueError(f"version {found['version']!r}")
        target = Target(
            str(found["sandboxId"]),
            str(found["netns"]),
            str(found["ifName"]),
            str(found["cniArgs"]),
            dict(found["runtimeConfig"]),
        )
        phase = found["phase"]
        if phase not in ("adding", "added", "deleting"):
            raise ValueError(f"phase {phase!r}")
        return Record(
            target.container_id,
            parse_list(json.dumps(found["config"]).encode(), source),
            target,
            phase,
            tuple(map(str, found["pluginDirectories"])),
            str(found["hostname"]),
            dict(found["result"]) if found["result"] is not None else None,
            str(found["error"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError, InvalidArgument) as error:
        raise DataLoss("read record of attachment", source, f"damaged: {error!r}"[:300]) from error


class Records:
    """The files, below one directory. Safe from many threads and processes; changes are made within `lock`."""

    def __init__(self, directory: str, *, orphan_s: float) -> None:
        """`orphan_s`: how long a plugin of a killed process may go on."""
        self._orphan_s = orphan_s
        self._directory = f"{directory}/attachments"
        self._locks = f"{directory}/locks"

    def _path(self, sandbox_id: str) -> str:
        return f"{self._directory}/{sandbox_id}{_SUFFIX}"

    def read(self, sandbox_id: str) -> Record | None:
        """A sandbox's record; None when it has none. Raises DataLoss, SystemFailure."""
        path = self._path(sandbox_id)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SystemFailure.from_os_error(error, "read record of attachment", path) from error
        return decode(data, path)

    def ids(self) -> list[str]:
        """The sandboxes with a record. Raises SystemFailure."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SystemFailure.from_os_error(error, "list attachments", self._directory) from error
        return sorted(n.removesuffix(_SUFFIX) for n in names if n.endswith(_SUFFIX) and n[0] != ".")

    def write(self, record: Record, *, durable: bool = False) -> None:
        """Replace a record; `durable` ones survive a power cut. Raises SystemFailure."""
        path = self._path(record.sandbox_id)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            (write_file if durable else write_file_fast)(path, encode(record))
        except OSError as error:
            raise SystemFailure.from_os_error(error, "write record of attachment", path) from error

    def remove(self, sandbox_id: str) -> None:
        """Forget an attachment; succeeds for what is gone. Raises SystemFailure."""
        path = self._path(sandbox_id)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # somebody was quicker
        except OSError as error:
            raise SystemFailure.from_os_error(error, "remove record of attachment", path) from error

    def sweep(self) -> None:
        """Remove the temporary files of killed writers; only while nobody writes (`collecting`)."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                os.unlink(f"{self._directory}/{name}")

    @contextmanager
    def lock(self, sandbox_id: str) -> Generator[int]:
        """Change one attachment: nobody else does meanwhile, and no collection runs.

        Yields a descriptor for plugins to inherit: while a plugin of a killed process still runs, the next one waits.
        Raises SystemFailure.
        """
        with self._locked(sandbox_id, wait=True) as plugin_fd:
            assert plugin_fd is not None  # it was waited for
            yield plugin_fd

    @contextmanager
    def try_lock(self, sandbox_id: str) -> Generator[int | None]:
        """As `lock`, without waiting; None when somebody else has it."""
        with self._locked(sandbox_id, wait=False) as plugin_fd:
            yield plugin_fd

    @contextmanager
    def collecting(self) -> Generator[None]:
        """Collect garbage: nobody adds or deletes meanwhile (CNI specification, "GC"). Raises SystemFailure."""
        fd = self._open_locks()
        try:
            self._set(fd, fcntl.F_WRLCK, _GC_BYTE, wait=True)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _locked(self, sandbox_id: str, *, wait: bool) -> Generator[int | None]:
        byte = _byte_of(sandbox_id)
        fd = self._open_locks()
        plugin_fd = -1
        try:
            if not self._set(fd, fcntl.F_RDLCK, _GC_BYTE, wait=wait):
                yield None
                return
            if not self._set(fd, fcntl.F_WRLCK, byte, wait=wait):
                yield None
                return
            plugin_fd = self._open_locks()
            yield plugin_fd if self._outlast_orphan(plugin_fd, byte, wait=wait) else None
            # By word and not by closing: what a plugin left running may hold the descriptor for ever.
            self._set(plugin_fd, fcntl.F_UNLCK, _PLUGINS + byte, wait=False)
        finally:
            os.close(fd)
            if plugin_fd >= 0:
                os.close(plugin_fd)

    def _outlast_orphan(self, fd: int, byte: int, *, wait: bool) -> bool:
        """Take the lock that plugins inherit, once those of a killed process have ended.

        A plugin may leave a daemon that holds it: no longer is waited than a plugin may take.
        """
        deadline = time.monotonic() + self._orphan_s
        while not self._set(fd, fcntl.F_WRLCK, _PLUGINS + byte, wait=False):
            if not wait:
                return False
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_S)
        return True

    def _open_locks(self) -> int:
        try:
            return os.open(self._locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._locks), mode=0o700, exist_ok=True)
            return os.open(self._locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemFailure.from_os_error(error, "open locks of attachments", self._locks) from error

    def _set(self, fd: int, kind: int, byte: int, *, wait: bool) -> bool:
        # Locks of the open file description: each opening is an owner of its own, threads included, and the kernel
        # gives them back when it is closed or its process dies. One file, a byte for each sandbox, nothing to tidy up.
        request = _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if not wait and error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise SystemFailure.from_os_error(error, "lock attachment", self._locks) from error
        return True


def _byte_of(sandbox_id: str) -> int:
    """A byte of its own for each sandbox, out of 2^61."""
    digest = hashlib.sha256(sandbox_id.encode(errors="surrogateescape")).digest()
    return 1 + (int.from_bytes(digest[:8], "big") >> 3)
