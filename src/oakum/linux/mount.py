# SPDX-License-Identifier: Apache-2.0
"""Mounts by file descriptor: detached trees, new file systems, attributes, propagation.

A mount is made detached (`open_tree`, `new_filesystem`, `overlay`), given its attributes, and only then put in its
place (`move_mount`), so no half-made mount is ever visible. What is mounted where is decided elsewhere.
"""

from __future__ import annotations

import errno
import os

from oakum.linux.fd import Fd
from oakum.linux.libc import (
    CText,
    Struct,
    bind,
    bind_call,
    byref,
    c_int,
    c_size_t,
    c_uint,
    c_ulong,
    c_void_p,
    call_name,
    sizeof,
    u64,
)
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
_AT_FDCWD: Final = -100
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40

# Source: mount_setattr(2)
ATTR_RDONLY: Final = 0x01
ATTR_NOSUID: Final = 0x02
ATTR_NODEV: Final = 0x04
ATTR_NOEXEC: Final = 0x08
ATTR_ATIME_MASK: Final = 0x70
ATTR_RELATIME: Final = 0x00
ATTR_NOATIME: Final = 0x10
ATTR_STRICTATIME: Final = 0x20
ATTR_NODIRATIME: Final = 0x80
ATTR_IDMAP: Final = 0x00100000
ATTR_NOSYMFOLLOW: Final = 0x00200000

# Source: mount(2)
MS_RDONLY: Final = 1
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
_MNT_DETACH: Final = 2

# Source: fsconfig(2)
_SET_FLAG, _SET_STRING, _SET_FD, _CMD_CREATE = 0, 1, 5, 6
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
# fsconfig(2) takes values of at most 255 bytes; separators inside a path would be read as syntax by older kernels.
_VALUE_LIMIT: Final = 255
_PLAIN_PATH_LIMIT: Final = 240
_AWKWARD: Final = frozenset(":,\\")


class _MountAttr(Struct):
    _fields_ = [("attr_set", u64), ("attr_clr", u64), ("propagation", u64), ("userns_fd", u64)]


_open_tree = bind_call("open_tree", c_int, CText, c_uint)
_move_mount = bind_call("move_mount", c_int, CText, c_int, CText, c_uint)
_fsopen = bind_call("fsopen", CText, c_uint)
_fsconfig = bind_call("fsconfig", c_int, c_uint, CText, CText, c_int)
_fsmount = bind_call("fsmount", c_int, c_uint, c_uint)
_mount_setattr = bind_call("mount_setattr", c_int, CText, c_uint, c_void_p, c_size_t)
_mount = bind("mount", CText, CText, CText, c_ulong, CText)
_umount2 = bind("umount2", CText, c_int)
_pivot_root = bind_call("pivot_root", CText, CText)


def open_tree(dir_fd: int, path: str, *, clone: bool, recursive: bool = False) -> Fd:
    """The mount at `path` below `dir_fd` ("" = `dir_fd` itself); a detached copy of it with `clone`.

    Source: open_tree(2). Raises OSError.
    """
    flags = os.O_CLOEXEC | AT_EMPTY_PATH
    if clone:
        flags |= _OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    return Fd(_open_tree(dir_fd, path, flags, target=path))


def open_tree_at(path: str, *, recursive: bool = False) -> Fd:
    """A detached copy of the mount at an absolute host path. Raises OSError."""
    return open_tree(_AT_FDCWD, path, clone=True, recursive=recursive)


def move_mount(from_fd: int, to_dir_fd: int, to_path: str = "", *, target: str = "") -> None:
    """Put the (detached) mount `from_fd` onto `to_path` below `to_dir_fd` ("" = onto `to_dir_fd`).

    Source: move_mount(2). Raises OSError.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else _MOVE_MOUNT_T_EMPTY_PATH)
    _move_mount(from_fd, "", to_dir_fd, to_path, flags, target=target or to_path)


def new_filesystem(
    fstype: str,
    options: Sequence[tuple[str, str | int | None]] = (),
    *,
    flags: int = 0,
    source: str = "",
) -> Fd:
    """A detached mount of a new file system; `flags` are ATTR_*.

    An option's value is None (a flag), text, or an int (a borrowed file descriptor).
    Source: fsopen(2), fsconfig(2), fsmount(2).

    Raises:
        OSError: its note holds what the file system itself said.
    """
    with Fd(_fsopen(fstype, _FSOPEN_CLOEXEC, target=fstype)) as context:
        try:
            if source:
                _fsconfig(context.fileno(), _SET_STRING, "source", source, 0, target=fstype)
            for key, value in options:
                _set_option(context.fileno(), key, value, fstype)
            _fsconfig(context.fileno(), _CMD_CREATE, None, None, 0, target=fstype)
            return Fd(_fsmount(context.fileno(), _FSMOUNT_CLOEXEC, flags, target=fstype))
        except OSError as failure:
            if said := _context_log(context.fileno()):
                failure.add_note(said)
            raise


def kernel_message(failure: OSError) -> str:
    """What the file system said about a failed mount, or ""."""
    notes = [str(note) for note in getattr(failure, "__notes__", ())]
    return "; ".join(note for note in notes if note != f"{call_name(failure)}(2)")


def _set_option(context_fd: int, key: str, value: str | int | None, target: str) -> None:
    if value is None:
        _fsconfig(context_fd, _SET_FLAG, key, None, 0, target=f"{target} {key}")
    elif isinstance(value, int):
        _fsconfig(context_fd, _SET_FD, key, None, value, target=f"{target} {key}")
    else:
        _fsconfig(context_fd, _SET_STRING, key, value, 0, target=f"{target} {key}={value}")


def _context_log(context_fd: int) -> str:
    lines: list[str] = []
    while True:
        try:
            line = os.read(context_fd, 8192)
        except OSError:  # ENODATA: nothing more was said
            return "; ".join(lines)
        if not line:
            return "; ".join(lines)
        text = line.decode(errors="replace").strip()
        lines.append(text[2:] if text[1:2] == " " else text)


def overlay(
    lower: Sequence[str],
    upper: str = "",
    work: str = "",
    extra: Sequence[tuple[str, str | int | None]] = (),
    *,
    flags: int = 0,
) -> Fd:
    """A detached overlay of `lower` (topmost first) and, unless read-only, `upper` and `work`.

    Works with hundreds of layers: one "lowerdir+" each (kernel 6.7), else short names through descriptors.
    Raises OSError.
    """
    held: list[Fd] = []
    try:
        options: list[tuple[str, str | int | None]] = [("lowerdir+", _short(path, held)) for path in lower]
        if upper:
            options += [("upperdir", _short(upper, held)), ("workdir", _short(work, held))]
        try:
            return new_filesystem("overlay", [*options, *extra], flags=flags, source="overlay")
        except OSError as failure:
            # Kernels before 6.7 know no "lowerdir+", and say so in several ways or not at all.
            if failure.errno != errno.EINVAL:
                raise
        names = ":".join(_short(path, held, always=True) for path in lower)
        if len(names) <= _VALUE_LIMIT:
            options[: len(lower)] = [("lowerdir", names)]
            return new_filesystem("overlay", [*options, *extra], flags=flags, source="overlay")
        return _overlay_by_mount(lower, upper, work, extra, flags=flags)
    finally:
        for fd in held:
            fd.close()


def _short(path: str, held: list[Fd], *, always: bool = False) -> str:
    if not always and len(os.fsencode(path)) < _PLAIN_PATH_LIMIT and not _AWKWARD.intersection(path):
        return path
    fd = Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    held.append(fd)
    return f"/proc/self/fd/{fd.fileno()}"


def _overlay_by_mount(
    lower: Sequence[str],
    upper: str,
    work: str,
    extra: Sequence[tuple[str, str | int | None]],
    *,
    flags: int,
) -> Fd:
    # Before "lowerdir+" only mount(2) can carry many layers, and it has to be mounted somewhere: over its own
    # topmost lower directory, from where it is taken as a detached tree at once.
    held: list[Fd] = []
    try:
        names = [_short(path, held, always=True) for path in lower]
        options = ["lowerdir=" + ":".join(names)]
        if upper:
            options += [
                "upperdir=" + _short(upper, held, always=True),
                "workdir=" + _short(work, held, always=True),
            ]
        options += [key if value is None else f"{key}={value}" for key, value in extra]
        _mount("overlay", names[0], "overlay", 0, ",".join(options), target=lower[0])
        # The descriptor still names the covered directory; only a fresh path walk sees the mount.
        tree = open_tree(_AT_FDCWD, lower[0], clone=True)
        _umount2(lower[0], _MNT_DETACH, target=lower[0])
    finally:
        for fd in held:
            fd.close()
    # it may have become shared with what it was mounted over; a detached mount is private
    set_attributes(tree.fileno(), set_flags=flags, propagation=MS_PRIVATE)
    return tree


def set_attributes(
    fd: int,
    *,
    set_flags: int = 0,
    clear_flags: int = 0,
    propagation: int = 0,
    userns_fd: int | None = None,
    recursive: bool = False,
    target: str = "",
) -> None:
    """Change the attributes (ATTR_*) and propagation (MS_*) of the mount `fd`.

    Source: mount_setattr(2). Raises OSError.
    """
    if userns_fd is not None:
        set_flags |= ATTR_IDMAP
    attr = _MountAttr(set_flags, clear_flags, propagation, userns_fd or 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _mount_setattr(fd, "", flags, byref(attr), sizeof(attr), target=target)


def set_propagation(path: str, propagation: int) -> None:
    """Change how mounts at `path` propagate (MS_PRIVATE, MS_SLAVE, ..., with MS_REC). Raises OSError."""
    _mount(None, path, None, propagation, None, target=path)


def bind_file(source: str, target: str) -> None:
    """Bind-mount the file `source` (also a namespace of /proc) onto the existing file `target`. Raises OSError."""
    _mount(source, target, None, MS_BIND, None, target=target)


def unmount(path: str, *, detach: bool = False) -> None:
    """Unmount what is on top at `path`, never following a link there.

    Source: umount2(2). Raises OSError.
    """
    umount_nofollow = 8
    _umount2(path, umount_nofollow | (_MNT_DETACH if detach else 0), target=path)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root mount and put the old one at `put_old`.

    Source: pivot_root(2). Raises OSError.
    """
    _pivot_root(new_root, put_old, target=new_root)


def enter_root(root_fd: int) -> None:
    """Make the mount `root_fd` the root of this mount namespace and drop the old one with all below it.

    Both old and new root are ".": the old one is stacked over the new and detached (pivot_root(2), "NOTES").
    Raises OSError.
    """
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root_fd)
        pivot_root(".", ".")
        os.fchdir(old)
        # The detach below must not propagate to where the old mounts came from.
        set_propagation(".", MS_SLAVE | MS_REC)
        _umount2(".", _MNT_DETACH, target="old root")
        os.chdir("/")
    finally:
        os.close(old)
