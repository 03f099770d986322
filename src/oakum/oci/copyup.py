# SPDX-License-Identifier: Apache-2.0
"""tmpcopyup: what the image has at a mountpoint, copied into the tmpfs that will cover it. By descriptor, links kept."""

from __future__ import annotations

import errno
import os
import stat

from oakum.linux.fd import Fd
from oakum.linux.paths import open_beneath

_CHUNK_BYTES = 1 << 20


def copy_tree(source_fd: int, target_fd: int) -> None:
    """Copy the content of a directory with modes, owners, times, links and extended attributes. Raises OSError."""
    with open_beneath(source_fd, ".", os.O_RDONLY | os.O_DIRECTORY) as source:
        status = os.fstat(source.fileno())
        _copy_entries(source.fileno(), target_fd)
        with open_beneath(target_fd, ".", os.O_RDONLY | os.O_DIRECTORY) as target:
            os.fchown(target.fileno(), status.st_uid, status.st_gid)


def _copy_entries(source_fd: int, target_fd: int) -> None:
    with os.scandir(source_fd) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
        elif kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target_fd)
            with (
                open_beneath(source_fd, name, os.O_RDONLY | os.O_DIRECTORY) as source,
                open_beneath(target_fd, name, os.O_RDONLY | os.O_DIRECTORY) as target,
            ):
                _copy_entries(source.fileno(), target.fileno())
                _copy_metadata(source, target, status)
        elif kind == stat.S_IFREG:
            with (
                open_beneath(source_fd, name, os.O_RDONLY) as source,
                open_beneath(target_fd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) as target,
            ):
                while os.sendfile(target.fileno(), source.fileno(), None, _CHUNK_BYTES):
                    pass
                _copy_metadata(source, target, status)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target_fd)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)


def _copy_metadata(source: Fd, target: Fd, status: os.stat_result) -> None:
    os.fchown(target.fileno(), status.st_uid, status.st_gid)
    os.fchmod(target.fileno(), stat.S_IMODE(status.st_mode))
    for key in os.listxattr(source.fileno()):
        try:
            os.setxattr(target.fileno(), key, os.getxattr(source.fileno(), key))
        except OSError as failure:
            # tmpfs knows fewer attributes than disks do; those of the overlay mean nothing here.
            if failure.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
    os.utime(target.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
