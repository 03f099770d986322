# SPDX-License-Identifier: Apache-2.0
"""Removing and measuring directory trees that others filled: by descriptor, never through a symbolic link.

Trees may be deeper than the longest path and than the number of descriptors we may hold.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from oakum.errors import SystemFailure
from oakum.snapshots.protocol import Usage

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# How many levels are held open at once, well below the usual limit of 1024 descriptors.
_HELD_LEVELS: Final = 64
_RETRIES: Final = 10


@contextmanager
def open_directory(path: str, dir_fd: int | None = None, *, follow: bool = False) -> Generator[int]:
    """The descriptor of a directory; that it is a symbolic link is accepted with `follow` only. Raises OSError."""
    flags = _OPEN_DIRECTORY & ~os.O_NOFOLLOW if follow else _OPEN_DIRECTORY
    fd = os.open(path, flags, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def remove_tree(parent_fd: int, name: str) -> None:
    """Delete `name` in the directory `parent_fd` with everything in it; succeeds for what is gone.

    Two processes may do it at the same time.

    Raises:
        SystemFailure: something cannot be deleted (an immutable file, a read-only file system).
    """
    try:
        _remove_entry(parent_fd, name)
    except OSError as error:
        hint = "an immutable file is freed with chattr -i" if error.errno == errno.EPERM else ""
        raise SystemFailure.from_os_error(error, "remove tree", repr(name), hint=hint) from error


def _remove_entry(parent_fd: int, name: str) -> None:
    for _ in range(_RETRIES):
        try:
            with open_directory(name, parent_fd) as top_fd:
                # Subdirectories too deep to hold are moved up here and emptied in turn, so depth never matters.
                while _empty(top_fd, top_fd, 0):
                    pass
            os.rmdir(name, dir_fd=parent_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                continue  # another process deletes the same tree and has just moved a part of it up
            # O_NOFOLLOW gives ELOOP for a symbolic link, O_DIRECTORY gives ENOTDIR for all else.
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            _unlink(parent_fd, name)
        return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)


def _unlink(dir_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass  # another process deletes the same tree


def _empty(dir_fd: int, top_fd: int, depth: int) -> bool:
    """Empty a directory; True when deep parts were moved up to `top_fd` and wait there."""
    moved = False
    with os.scandir(dir_fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            _unlink(dir_fd, name)
        elif depth >= _HELD_LEVELS:
            moved = _move_up(dir_fd, name, top_fd) or moved
        else:
            moved = _empty_and_remove(dir_fd, name, top_fd, depth) or moved
    return moved


def _empty_and_remove(dir_fd: int, name: str, top_fd: int, depth: int) -> bool:
    try:
        with open_directory(name, dir_fd) as fd:
            moved = _empty(fd, top_fd, depth + 1)
        os.rmdir(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return False  # another process deletes the same tree
    return moved


def _move_up(dir_fd: int, name: str, top_fd: int) -> bool:
    try:
        os.rename(name, f".deep-{os.urandom(8).hex()}", src_dir_fd=dir_fd, dst_dir_fd=top_fd)
    except FileNotFoundError:
        return False
    return True


class _Level:
    """One directory on the way down: its descriptor (given up while far above), identity, and what is left to do."""

    __slots__ = ("fd", "identity", "pending")

    def __init__(self, fd: int, identity: tuple[int, int], pending: list[str]) -> None:
        self.fd = fd
        self.identity = identity
        self.pending = pending


def measure_tree(top_fd: int) -> Usage:
    """The disk use of a directory, itself included, in one pass; the tree may change meanwhile.

    Raises:
        SystemFailure: the disk cannot be read.
    """
    try:
        return _measure(top_fd)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "measure tree") from error


def _measure(top_fd: int) -> Usage:
    counted = _Counter(os.fstat(top_fd))
    levels: list[_Level] = []
    try:
        levels.append(counted.enter(os.dup(top_fd)))
        while levels:
            level = levels[-1]
            if not level.pending:
                _ascend(levels)
                continue
            name = level.pending.pop()
            try:
                fd = os.open(name, _OPEN_DIRECTORY, dir_fd=level.fd)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # removed or replaced since it was listed
                raise
            levels.append(counted.enter(fd))
            far = len(levels) - _HELD_LEVELS
            if far > 0 and levels[far].fd >= 0:
                os.close(levels[far].fd)
                levels[far].fd = -1
    finally:
        for level in levels:
            if level.fd >= 0:
                os.close(level.fd)
    return Usage(counted.blocks * 512, counted.inodes)


def _ascend(levels: list[_Level]) -> None:
    done = levels.pop()
    try:
        if levels and levels[-1].fd < 0:
            fd = os.open("..", _OPEN_DIRECTORY, dir_fd=done.fd)
            found = os.fstat(fd)
            levels[-1].fd = fd
            if (found.st_dev, found.st_ino) != levels[-1].identity:
                # A container moved this branch while it was counted: what is left of it has no way back.
                while levels[-1].fd < 0 or len(levels) > 1:
                    lost = levels.pop()
                    if lost.fd >= 0:
                        os.close(lost.fd)
    finally:
        os.close(done.fd)


class _Counter:
    """Sums blocks and inodes, a file with several names once."""

    __slots__ = ("blocks", "device", "inodes", "linked")

    def __init__(self, top: os.stat_result) -> None:
        self.blocks = top.st_blocks
        self.inodes = 1
        self.device = top.st_dev
        self.linked: set[int] = set()

    def enter(self, fd: int) -> _Level:
        """Count what a directory holds; takes over `fd`."""
        try:
            here = os.fstat(fd)
            pending: list[str] = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._count(entry, pending)
        except BaseException:
            os.close(fd)
            raise
        return _Level(fd, (here.st_dev, here.st_ino), pending)

    def _count(self, entry: os.DirEntry[str], pending: list[str]) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        if status.st_dev != self.device:
            return  # something is mounted there: not part of this tree
        if stat.S_ISDIR(status.st_mode):
            pending.append(entry.name)
        elif status.st_nlink > 1:
            if status.st_ino in self.linked:
                return
            self.linked.add(status.st_ino)
        self.blocks += status.st_blocks
        self.inodes += 1
