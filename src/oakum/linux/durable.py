# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent whatever kills the writer: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import errno
import os

_CHUNK_BYTES = 64 << 10
_RESERVED_BYTES = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_file(path: str, limit_bytes: int = 16 << 20) -> bytes:
    """The bytes of a file, at most `limit_bytes`: as `open` would, in half of its calls. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, min(limit_bytes, _CHUNK_BYTES))
        while data and len(data) < limit_bytes:
            chunk = os.read(fd, min(limit_bytes - len(data), _CHUNK_BYTES))
            if not chunk:
                break
            data += chunk
        return data
    finally:
        os.close(fd)


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` with `data`; when this returns it survives a power cut. Raises OSError."""
    _replace(path, data, mode)
    sync_directory(os.path.dirname(path) or ".")


def write_file_fast(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` atomically but without waiting for the disk: for what a reboot forgets anyway."""
    _replace(path, data, mode, sync=False)


def reserve(path: str) -> None:
    """Keep room on the disk for `write_reserved` of this path. Raises OSError: there is none."""
    fd = os.open(_room_for(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, _RESERVED_BYTES)
    finally:
        os.close(fd)


def write_reserved(path: str, data: bytes, mode: int = 0o600) -> None:
    """As `write_file`; on a full disk in the room that was kept (4 KiB), if there is any. Raises OSError."""
    try:
        write_file(path, data, mode)
        return
    except OSError as error:
        if error.errno not in _FULL or len(data) > _RESERVED_BYTES:
            raise
        full = error
    try:
        fd = os.open(_room_for(path), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise full from None
    try:
        os.fchmod(fd, mode)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(_room_for(path), path)
    sync_directory(os.path.dirname(path) or ".")


def _room_for(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.room")


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace(path: str, data: bytes, mode: int, *, sync: bool = True) -> None:
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name[:200]}.{os.urandom(6).hex()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)  # the umask is not the writer's choice
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
