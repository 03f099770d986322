# SPDX-License-Identifier: Apache-2.0
"""Paths inside a root that may be hostile: every name is resolved by the kernel below a directory descriptor.

Nothing here follows a symbolic link out of the root or through a magic link of /proc. Plain host paths are `os`' business.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from oakum.linux.fd import Fd
from oakum.linux.libc import CText, bind_call, c_int, c_size_t, c_void_p, error
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# A rename elsewhere makes openat2 give up with EAGAIN when ".." is involved; that is rare, so a few tries are plenty.
_RACE_TRIES: Final = 64
_SYMLINK_LIMIT: Final = 40

_OPEN_HOW_BYTES: Final = 24


_openat2 = bind_call("openat2", c_int, CText, c_void_p, c_size_t)


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, *, resolve: int) -> Fd:
    """Open `path` below `dir_fd` under the given resolution rules, close-on-exec.

    Source: openat2(2). Raises OSError.
    """
    # struct open_how: three numbers of 64 bits
    how = b"".join([number.to_bytes(8, sys.byteorder) for number in (flags | os.O_CLOEXEC, mode, resolve)])
    for _ in range(_RACE_TRIES):
        try:
            return Fd(_openat2(dir_fd, path, how, _OPEN_HOW_BYTES, target=path))
        except BlockingIOError:
            continue
    raise error("openat2", errno.EAGAIN, path)


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> Fd:
    """Open `path` as a process chrooted into `root_fd` would, without magic links. Raises OSError."""
    return openat2(root_fd, path, flags, mode, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_beneath(dir_fd: int, path: str | bytes, flags: int, mode: int = 0) -> Fd:
    """Open `path`, which may not leave `dir_fd` nor contain any symbolic link. Raises OSError (ELOOP, EXDEV)."""
    return openat2(dir_fd, path, flags, mode, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def make_dirs_in_root(root_fd: int, path: str, mode: int = 0o755) -> Fd:
    """Open the directory `path` in the root, making what is missing, also behind a dangling symbolic link.

    The result is an O_PATH descriptor. Raises OSError (ENOTDIR where a file is in the way).
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return _make_last(root_fd, path, mode) or _walk_and_make(root_fd, path, mode)


def make_file_in_root(root_fd: int, path: str, mode: int = 0o644) -> Fd:
    """Open the file `path` in the root as O_PATH, making it (empty) and its directories when missing. Raises OSError."""
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    directory, name = os.path.split(path.rstrip("/"))
    with make_dirs_in_root(root_fd, directory or "/") as parent:
        try:
            with open_beneath(parent.fileno(), name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode):
                pass
        except FileExistsError:
            # Appeared meanwhile, or a dangling link, which the next step refuses.
            pass
        return open_beneath(parent.fileno(), name, os.O_PATH)


def read_in_root(root_fd: int, path: str, limit_bytes: int) -> bytes:
    """The content of a regular file in the root. Raises OSError (EFBIG above the limit, EINVAL for what is no file)."""
    with open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise error("read", errno.EINVAL, path)
        chunks: list[bytes] = []
        total = 0
        while chunk := os.read(file.fileno(), 65536):
            total += len(chunk)
            if total > limit_bytes:
                raise error("read", errno.EFBIG, path)
            chunks.append(chunk)
    return b"".join(chunks)


def parts(path: str) -> list[str]:
    """The names in `path`, without empty ones and "."."""
    return [name for name in path.split("/") if name not in ("", ".")]


def _make_last(root_fd: int, path: str, mode: int) -> Fd | None:
    """The common case, in few calls: only the last name is missing. None when it is anything else."""
    directory, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        return None
    try:
        with open_in_root(root_fd, directory or "/", os.O_PATH | os.O_DIRECTORY) as parent:
            entry = _enter_or_make(parent.fileno(), name, mode)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(os.fstat(entry.fileno()).st_mode):
        return entry
    entry.close()  # a dangling link
    return None


def _walk_and_make(root_fd: int, path: str, mode: int) -> Fd:
    done: list[str] = []  # real directories only: no links, no ".."
    pending = parts(path)[::-1]
    links = 0
    current = Fd(os.dup(root_fd))
    try:
        while pending:
            name = pending.pop()
            if name == "..":
                done = done[:-1]
                entry = open_in_root(root_fd, "/" + "/".join(done), os.O_PATH | os.O_DIRECTORY)
            else:
                entry = _enter_or_make(current.fileno(), name, mode)
                kind = stat.S_IFMT(os.fstat(entry.fileno()).st_mode)
                if kind == stat.S_IFLNK:
                    links += 1
                    with entry:
                        link = os.readlink("", dir_fd=entry.fileno())
                    if links > _SYMLINK_LIMIT:
                        raise error("openat2", errno.ELOOP, path)
                    if link.startswith("/"):
                        done = []
                    pending.extend(parts(link)[::-1])
                    entry = open_in_root(root_fd, "/" + "/".join(done), os.O_PATH | os.O_DIRECTORY)
                elif kind != stat.S_IFDIR:
                    entry.close()
                    raise error("mkdirat", errno.ENOTDIR, path)
                else:
                    done.append(name)
            current.close()
            current = entry
    except BaseException:
        current.close()
        raise
    return current


def _enter_or_make(dir_fd: int, name: str, mode: int) -> Fd:
    flags = os.O_PATH | os.O_NOFOLLOW
    try:
        os.mkdir(name, mode, dir_fd=dir_fd)
    except FileExistsError:
        pass
    except OSError:
        # On a read-only or foreign file system the directory may be there all the same.
        if not _exists(dir_fd, name):
            raise
    return open_beneath(dir_fd, name, flags)


def _exists(dir_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return False
    return True
