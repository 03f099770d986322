# SPDX-License-Identifier: Apache-2.0
"""Copying what a file is besides its content: owner, mode, times, extended attributes. Always by descriptor."""

from __future__ import annotations

import errno
import os
from typing import Final

# Overlay's own marks (opaque, origin, redirect) describe a layer, not the file.
_OVERLAY_MARKS: Final = ("trusted.overlay.", "user.overlay.")


def copy_metadata(source_fd: int, target_fd: int, owner: tuple[int, int] | None = None) -> None:
    """Give the open file `target_fd` the owner, mode, times and extended attributes of `source_fd`; or another `owner`.

    Raises OSError.
    """
    status = os.fstat(source_fd)
    os.fchown(target_fd, *(owner or (status.st_uid, status.st_gid)))
    os.fchmod(target_fd, status.st_mode & 0o7777)  # after the owner, whose change clears setuid bits
    for name in list_attributes(source_fd):
        os.setxattr(target_fd, name, os.getxattr(source_fd, name))
    os.utime(target_fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def list_attributes(fd: int) -> list[str]:
    """The names of a file's extended attributes, overlay's own left out. Raises OSError."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise
    return [name for name in names if not name.startswith(_OVERLAY_MARKS)]
