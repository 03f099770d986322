# SPDX-License-Identifier: Apache-2.0
"""Applying a layer to a directory by copying: whiteouts delete, opaque directories replace, all else is copied.

The source is what an image said and thus hostile: every step goes by descriptor, and no symbolic link is followed.
The target belongs to us alone while it is filled.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final

from oakum.errors import ResourceExhausted
from oakum.linux.filesystem import is_view_of_kernel
from oakum.linux.holes import data_areas
from oakum.linux.paths import open_beneath
from oakum.snapshots.metadata import copy_metadata
from oakum.snapshots.tree import open_directory, remove_tree

# Two descriptors and two stack frames a level, below the usual limits of 1024 and 1000.
_DEPTH_LIMIT: Final = 200
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
# Shares the blocks of two files where the file system can (ioctl_ficlone(2)).
_FICLONE: Final = 0x40049409
_PIECE_BYTES: Final = 1 << 30
_READ_BYTES: Final = 64 << 10


def merge_layer(layer_fd: int, target_fd: int, *, owner: tuple[int, int] | None = None) -> None:
    """Apply the layer directory to the target directory; `owner` None keeps the owners. Raises OSError, ResourceExhausted."""
    _Merge(target_fd, owner).directory(layer_fd, target_fd, "")


def copy_contents(source_fd: int, target_fd: int, *, owner: tuple[int, int] | None = None) -> None:
    """Copy what is in a live directory, with mounts but the kernel's own, into another. Raises OSError, ResourceExhausted."""
    _Merge(target_fd, owner, live=True).directory(source_fd, target_fd, "")


def copy_entry(
    source_dir_fd: int, name: str, target_dir_fd: int, as_name: str, *, owner: tuple[int, int] | None = None
) -> None:
    """Copy a file, or a directory with all in it, to a name in another directory.

    Of /proc, /sys and their like, mounted below, only the empty directory is copied. A file is replaced by one rename, a directory that is there is filled. Raises OSError (EISDIR and ENOTDIR when one is
    a directory and the other is not), ResourceExhausted.
    """
    status = os.stat(name, dir_fd=source_dir_fd, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        try:
            os.mkdir(as_name, 0o700, dir_fd=target_dir_fd)
        except FileExistsError:
            pass  # filled, if it is a directory
        with (
            open_directory(name, source_dir_fd) as inner_fd,
            open_directory(as_name, target_dir_fd) as made_fd,
        ):
            copy_contents(inner_fd, made_fd, owner=owner)
        return
    if _is_directory(target_dir_fd, as_name):
        raise IsADirectoryError(errno.EISDIR, "a file cannot replace a directory", as_name)
    # Under a name of its own first: who reads the old file never sees half of the new one.
    partial = f".{os.urandom(8).hex()}.partial"
    os.mkdir(partial, 0o700, dir_fd=target_dir_fd)
    try:
        with open_directory(partial, target_dir_fd) as partial_fd:
            _Merge(partial_fd, owner).entry(source_dir_fd, partial_fd, f"/{name}", name, status)
            os.rename(name, as_name, src_dir_fd=partial_fd, dst_dir_fd=target_dir_fd)
    finally:
        remove_tree(target_dir_fd, partial)


class _Merge:
    """One layer on its way into the target; remembers files with several names."""

    def __init__(self, root_fd: int, owner: tuple[int, int] | None, *, live: bool = False) -> None:
        self._root_fd = root_fd
        self._live = live
        self._owner = owner
        self._linked: dict[int, str] = {}  # inode in the layer → path of its first copy

    def directory(self, source_fd: int, target_fd: int, path: str) -> None:
        if path.count("/") >= _DEPTH_LIMIT:
            raise ResourceExhausted(
                "copy layer", path[:100], f"directories deeper than {_DEPTH_LIMIT} levels", hint="use overlay"
            )
        with os.scandir(source_fd) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        for name, status in found:
            self.entry(source_fd, target_fd, f"{path}/{name}", name, status)
        copy_metadata(source_fd, target_fd, self._owner)  # last, since filling a directory changes its times

    def entry(self, source_fd: int, target_fd: int, path: str, name: str, status: os.stat_result) -> None:
        """One entry of the source, put in the place of what has its name in the target."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            self._subdirectory(source_fd, target_fd, path, name)
            return
        remove_tree(target_fd, name)
        if kind == stat.S_IFCHR and status.st_rdev == 0:
            return  # a whiteout
        if status.st_nlink > 1 and self._link(target_fd, path, name, status.st_ino):
            return
        if kind == stat.S_IFREG:
            _copy_file(source_fd, target_fd, name, self._owner)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
            os.chown(name, *self._owner_of(status), dir_fd=target_fd, follow_symlinks=False)
            os.utime(
                name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target_fd, follow_symlinks=False
            )
        else:
            # Opening a device or pipe has effects: these are set by name, which is ours and no link.
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target_fd)
            os.chown(name, *self._owner_of(status), dir_fd=target_fd, follow_symlinks=False)
            os.chmod(name, status.st_mode & 0o7777, dir_fd=target_fd)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target_fd)

    def _owner_of(self, status: os.stat_result) -> tuple[int, int]:
        return self._owner or (status.st_uid, status.st_gid)

    def _subdirectory(self, source_fd: int, target_fd: int, path: str, name: str) -> None:
        with open_directory(name, source_fd) as inner_fd:
            if _is_opaque(inner_fd) or not _is_directory(target_fd, name):
                remove_tree(target_fd, name)
                os.mkdir(name, 0o700, dir_fd=target_fd)
            with open_directory(name, target_fd) as made_fd:
                if self._live and _is_mounted_view(source_fd, inner_fd):
                    copy_metadata(inner_fd, made_fd, self._owner)
                    return
                self.directory(inner_fd, made_fd, path)

    def _link(self, target_fd: int, path: str, name: str, inode: int) -> bool:
        first = self._linked.setdefault(inode, path)
        if first is path:
            return False
        with open_beneath(self._root_fd, first[1:], os.O_PATH | os.O_NOFOLLOW) as fd:
            # Through its descriptor, since the first name may lie anywhere in the target.
            os.link(f"/proc/self/fd/{fd.fileno()}", name, dst_dir_fd=target_fd, follow_symlinks=True)
        return True


def _is_mounted_view(outer_fd: int, inner_fd: int) -> bool:
    return os.fstat(outer_fd).st_dev != os.fstat(inner_fd).st_dev and is_view_of_kernel(inner_fd)


def _is_opaque(directory_fd: int) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(directory_fd, name) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return False


def _is_directory(dir_fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _copy_file(source_dir_fd: int, target_dir_fd: int, name: str, owner: tuple[int, int] | None) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    source_fd = os.open(name, os.O_RDONLY | flags, dir_fd=source_dir_fd)
    try:
        target_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=target_dir_fd)
        try:
            _copy_content(source_fd, target_fd)
            copy_metadata(source_fd, target_fd, owner)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_content(source_fd: int, target_fd: int) -> None:
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
            raise
    size = os.fstat(source_fd).st_size
    if size == 0:
        # nothing, or a file of /proc, which has a size only for who reads it
        while piece := os.read(source_fd, _READ_BYTES):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(target_fd, rest) :]
        return
    os.ftruncate(target_fd, size)
    for start, end in data_areas(source_fd, size):
        offset = start
        while offset < end:
            copied = _copy_piece(source_fd, target_fd, offset, min(end - offset, _PIECE_BYTES))
            if copied == 0:
                os.ftruncate(target_fd, offset)  # cut while it was copied, or of /sys: its size is a page's
                return
            offset += copied


def _copy_piece(source_fd: int, target_fd: int, start: int, length: int) -> int:
    try:
        return os.copy_file_range(source_fd, target_fd, length, start, start)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    # Between two kinds of file systems (an overlay's view to the disk), copy_file_range(2) does not work.
    os.lseek(target_fd, start, os.SEEK_SET)
    return os.sendfile(target_fd, source_fd, start, length)
