# SPDX-License-Identifier: Apache-2.0
"""Finishes a layer with what only the layers below it can tell: directories it left out, links to files it has not.

Runs once the layers below are committed, in the process that pulls. Looks names up as overlay would, but without a
mount: topmost layer first, a whiteout or an opaque directory ends the search.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from oakum.errors import DataLoss
from oakum.images.content import storage_error
from oakum.images.layerfiles import LayerRest
from oakum.linux import paths
from oakum.linux.fd import Fd
from oakum.linux.holes import data_areas

_OPAQUE_NAMES: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_OVERLAY_MARKS: Final = ("trusted.overlay.", "user.overlay.")
_COPY_BYTES: Final = 1 << 30
_DIR_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY


def finish_layer(directory: str, lower: Sequence[str], rest: LayerRest) -> None:
    """Do what `rest` says for the layer in `directory`, on top of the `lower` directories, topmost first.

    Raises:
        DataLoss: a hard link's target is in no layer.
        ResourceExhausted: the disk is full.
    """
    if not rest.implicit and not rest.links:
        return
    with ExitStack() as stack:
        root = stack.enter_context(Fd(os.open(directory, _DIR_FLAGS | os.O_CLOEXEC)))
        below = [stack.enter_context(Fd(os.open(path, _DIR_FLAGS | os.O_CLOEXEC))).fileno() for path in lower]
        for name in rest.implicit:
            try:
                _copy_directory(root.fileno(), below, name)
            except OSError as error:
                raise storage_error(error, "finish layer", repr(os.fsdecode(name))) from error
        for name, target in rest.links:
            try:
                _link_lower(root.fileno(), below, name, target)
            except OSError as error:
                raise storage_error(error, "finish layer", repr(os.fsdecode(name))) from error


def _find(root_fd: int, below: Sequence[int], name: bytes) -> Fd | None:
    """What `name` is in the layers below, as an O_PATH descriptor; None when nothing is there.

    `root_fd` is the layer on top, whose opaque directories hide all below.
    """
    parts = name.split(b"/")
    if _hides(root_fd, parts):
        return None
    for layer_fd in below:
        found = _walk(layer_fd, parts)
        if found is not None:
            if _is_whiteout(found):
                found.close()
                return None
            return found
        if _hides(layer_fd, parts):
            return None
    return None


def _walk(layer_fd: int, parts: Sequence[bytes]) -> Fd | None:
    try:
        return paths.open_beneath(layer_fd, b"/".join(parts), os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _hides(layer_fd: int, parts: Sequence[bytes]) -> bool:
    """Whether this layer has, on the way to the name, something that hides what is below it."""
    for length in range(1, len(parts)):
        found = _walk(layer_fd, parts[:length])
        if found is None:
            return False
        with found:
            if not stat.S_ISDIR(os.fstat(found.fileno()).st_mode):
                return True
            if _is_opaque(found):
                return True
    return False


def _is_whiteout(found: Fd) -> bool:
    there = os.fstat(found.fileno())
    return stat.S_ISCHR(there.st_mode) and there.st_rdev == 0


def _is_opaque(found: Fd) -> bool:
    path = f"/proc/self/fd/{found.fileno()}"
    return any(name in _OPAQUE_NAMES for name in os.listxattr(path))


def _copy_directory(root_fd: int, below: Sequence[int], name: bytes) -> None:
    found = _find(root_fd, below, name)
    if found is None:
        return
    with found:
        if not stat.S_ISDIR(os.fstat(found.fileno()).st_mode):
            return  # this layer puts a directory in the place of a file
        with (
            paths.open_beneath(found.fileno(), ".", _DIR_FLAGS) as source,
            paths.open_beneath(root_fd, name, _DIR_FLAGS) as target,
        ):
            _copy_metadata(source.fileno(), target.fileno())


def _link_lower(root_fd: int, below: Sequence[int], name: bytes, target: bytes) -> None:
    """Copy the target of a hard link up into this layer, and link to that."""
    parent, _, base = name.rpartition(b"/")
    with ExitStack() as stack:
        source_parent, _, source_base = target.rpartition(b"/")
        found = _find(root_fd, below, target)
        if found is None:
            raise DataLoss(
                "unpack layer",
                f"entry {os.fsdecode(name[:300])!r}",
                f"a hard link to {os.fsdecode(target[:300])!r}, which is not in the image",
            )
        stack.enter_context(found)
        kind = os.fstat(found.fileno()).st_mode
        if not stat.S_ISREG(kind):
            raise DataLoss(
                "unpack layer", f"entry {os.fsdecode(name[:300])!r}", "a hard link to what is no regular file"
            )
        target_dir = stack.enter_context(_directory_for(root_fd, below, source_parent))
        if not _exists(target_dir.fileno(), source_base):
            _copy_file(found.fileno(), target_dir.fileno(), source_base)
        link_dir = stack.enter_context(_directory_for(root_fd, below, parent))
        if _exists(link_dir.fileno(), base):
            os.unlink(base, dir_fd=link_dir.fileno())
        os.link(
            source_base,
            base,
            src_dir_fd=target_dir.fileno(),
            dst_dir_fd=link_dir.fileno(),
            follow_symlinks=False,
        )


def _directory_for(root_fd: int, below: Sequence[int], name: bytes) -> Fd:
    """The directory `name` of this layer, made like the one below when it is missing."""
    if not name:
        return Fd(os.dup(root_fd))
    try:
        return paths.open_in_root(root_fd, name, _DIR_FLAGS)
    except FileNotFoundError:
        parent, _, base = name.rpartition(b"/")
        with _directory_for(root_fd, below, parent) as parent_dir:
            os.mkdir(base, 0o755, dir_fd=parent_dir.fileno())
        _copy_directory(root_fd, below, name)
        return paths.open_beneath(root_fd, name, _DIR_FLAGS)


def _exists(dir_fd: int, base: bytes) -> bool:
    try:
        os.stat(base, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _copy_file(found_fd: int, dir_fd: int, base: bytes) -> None:
    source_fd = os.open(f"/proc/self/fd/{found_fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        target_fd = os.open(base, flags, 0o600, dir_fd=dir_fd)
        try:
            _copy_content(source_fd, target_fd)
            _copy_metadata(source_fd, target_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_content(source_fd: int, target_fd: int) -> None:
    """Copy data and leave holes: a layer of a few bytes may have a file of terabytes."""
    size = os.fstat(source_fd).st_size
    os.ftruncate(target_fd, size)
    for start, end in data_areas(source_fd, size):
        offset = start
        while offset < end:
            length = min(end - offset, _COPY_BYTES)
            copied = os.copy_file_range(source_fd, target_fd, length, offset, offset)
            if not copied:
                raise OSError(errno.EIO, "it became shorter while it was copied")
            offset += copied


def _copy_metadata(source_fd: int, target_fd: int) -> None:
    there = os.fstat(source_fd)
    if os.geteuid() == 0:
        os.fchown(target_fd, there.st_uid, there.st_gid)
    os.fchmod(target_fd, stat.S_IMODE(there.st_mode))
    for key in os.listxattr(source_fd):
        if not key.startswith(_OVERLAY_MARKS):
            os.setxattr(target_fd, key, os.getxattr(source_fd, key))
    os.utime(target_fd, ns=(there.st_mtime_ns, there.st_mtime_ns))
