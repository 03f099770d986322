# SPDX-License-Identifier: Apache-2.0
"""Space that is kept for the databases, so that containers can be stopped and removed while the disk is full.

SQLite needs some pages for its log before anything can even be read. Owns one file of the root directory, which is cut a
piece shorter whenever space has run out, and made whole again when there is plenty.
"""

from __future__ import annotations

import os
from typing import Final

from oakum.errors import ResourceExhausted

_WHOLE_BYTES: Final = 2 << 20
# what one command's logs take, and more
_PIECE_BYTES: Final = 512 << 10
_LOW_BYTES: Final = 512 << 10
_PLENTY_BYTES: Final = 8 << 20
_NAME: Final = "headroom"


def adjust(directory: str) -> None:
    """Give space back to the disk of `directory` where there is hardly any, take it where there is plenty.

    Raises:
        OSError: the directory cannot be looked at.
    """
    free_bytes = _free_bytes(directory)
    if _LOW_BYTES <= free_bytes < _PLENTY_BYTES:
        return
    path = f"{directory}/{_NAME}"
    try:
        kept_bytes = os.stat(path, follow_symlinks=False).st_size
    except FileNotFoundError:
        kept_bytes = 0
    if free_bytes < _LOW_BYTES and kept_bytes:
        _resize(path, max(0, kept_bytes - _PIECE_BYTES))
    elif free_bytes >= _PLENTY_BYTES and kept_bytes < _WHOLE_BYTES:
        _resize(path, _WHOLE_BYTES)


def require(directory: str, operation: str, subject: str) -> None:
    """Keep what was given back for those who remove: for something new there has to be more.

    Raises:
        ResourceExhausted: the disk is full, or as good as.
    """
    if _free_bytes(directory) < _LOW_BYTES:
        raise ResourceExhausted(
            operation, subject, "no space left on device", hint="remove images or containers"
        )


def _free_bytes(directory: str) -> int:
    disk = os.statvfs(directory)
    if not disk.f_blocks:
        return _LOW_BYTES  # ramfs and some others do not say: neither little nor plenty
    return disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)


def _resize(path: str, size_bytes: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return  # a root that cannot be written: the database is about to say so itself
    try:
        os.ftruncate(fd, size_bytes)
        if size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except OSError:
        # Taken by somebody else meanwhile, or a quota: what its size says must be there, so that it is tried again.
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)
