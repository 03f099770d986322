# SPDX-License-Identifier: Apache-2.0
"""Writes the entries of one layer into its directory, as overlay wants them. The hot path of every pull.

Every step goes through the descriptor of a directory that the kernel resolved inside the layer (openat2 with
RESOLVE_IN_ROOT), so no name, symbolic link or hard link of a hostile layer reaches outside of it. What only the layers
below can tell (owners of directories that the tar leaves out, targets of hard links) is noted for `lower.py`.

Directories get their final times last, since every file made in them changes those.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NamedTuple

from oakum.errors import DataLoss, OakumError, PermissionDenied
from oakum.images.content import storage_error
from oakum.images.tarstream import Entry
from oakum.linux import paths
from oakum.linux.fd import Fd

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS_PRIVATE: Final = b".wh..wh."
_DIRS_OPEN: Final = 128
_KEPT_LIMIT_BYTES: Final = 256 << 20
_KEPT_ENTRY_BYTES: Final = 256
_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIR_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY
_NODE_TYPES: Final = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
# Overlay's own attributes would let a layer redirect or hide paths of its neighbours.
_OVERLAY_MARKS: Final = ("trusted.overlay.", "user.overlay.")


class LayerRest(NamedTuple):
    """What is left to do when all layers below are complete.

    `implicit` are directories that the tar did not name, `links` pairs of path and target of hard links whose target is
    not in this layer.
    """

    implicit: tuple[bytes, ...]
    links: tuple[tuple[bytes, bytes], ...]


class _Directory:
    """The final metadata of a directory that the tar names."""

    __slots__ = ("gid", "mode", "mtime_ns", "uid", "xattrs")

    def __init__(self, entry: Entry) -> None:
        self.mode = entry.mode
        self.uid = entry.uid
        self.gid = entry.gid
        self.mtime_ns = entry.mtime_ns
        self.xattrs = entry.xattrs


class LayerWriter:
    """A `tarstream.Sink` that makes files below `root_fd`.

    `keep_owners` is for root; without it files belong to the caller. `user_xattr` writes overlay's marks where a
    mount without privileges reads them. The caller has set the umask to 0.
    """

    def __init__(self, root_fd: int, *, keep_owners: bool = True, user_xattr: bool = False) -> None:
        self._root_fd = root_fd
        self._keep_owners = keep_owners
        self._opaque = "user.overlay.opaque" if user_xattr else "trusted.overlay.opaque"
        self._dirs: dict[bytes, int] = {}
        self._explicit: dict[bytes, _Directory] = {}
        self._implicit: set[bytes] = set()
        self._links: list[tuple[bytes, bytes]] = []
        self._file: _OpenFile | None = None
        self._kept_bytes = 0

    # Sink

    def whole_file(self, entry: Entry, data: memoryview) -> None:
        """Make a small file in one go."""
        parent_fd, base = self._place(entry)
        if not base:
            return
        try:
            fd = self._create(parent_fd, base, entry.mode)
            try:
                if data:
                    written = os.write(fd, data)
                    while written < len(data):
                        written += os.write(fd, data[written:])
                if (entry.uid or entry.gid) and self._keep_owners:
                    os.fchown(fd, entry.uid, entry.gid)
                    if entry.mode & 0o7000:
                        os.fchmod(fd, entry.mode)  # a new owner clears setuid
                if entry.xattrs is not None:
                    _set_xattrs(fd, entry.xattrs)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
        except (OSError, OverflowError) as error:
            raise _failure(error, "write", entry.name) from error

    def begin_file(self, entry: Entry) -> None:
        """Open a file whose data comes in pieces."""
        parent_fd, base = self._place(entry)
        if not base:
            self._file = _OpenFile(entry, -1)
            return
        try:
            self._file = _OpenFile(entry, self._create(parent_fd, base, entry.mode))
        except (OSError, OverflowError) as error:
            raise _failure(error, "create", entry.name) from error

    def file_data(self, data: memoryview) -> None:
        """Append to the open file."""
        file = self._file
        assert file is not None
        if file.fd < 0:
            return
        try:
            if file.entry.segments is None:
                written = os.write(file.fd, data)
                while written < len(data):
                    written += os.write(file.fd, data[written:])
            else:
                file.write_sparse(data)
        except OSError as error:
            raise _failure(error, "write", file.entry.name) from error

    def end_file(self) -> None:
        """Give the open file its metadata and close it."""
        file = self._file
        assert file is not None
        self._file = None
        if file.fd < 0:
            return
        entry = file.entry
        try:
            if entry.segments is not None:
                os.ftruncate(file.fd, entry.size)
            if (entry.uid or entry.gid) and self._keep_owners:
                os.fchown(file.fd, entry.uid, entry.gid)
                if entry.mode & 0o7000:
                    os.fchmod(file.fd, entry.mode)
            if entry.xattrs is not None:
                _set_xattrs(file.fd, entry.xattrs)
            os.utime(file.fd, ns=(entry.mtime_ns, entry.mtime_ns))
        except (OSError, OverflowError) as error:
            raise _failure(error, "write", entry.name) from error
        finally:
            os.close(file.fd)

    def other(self, entry: Entry) -> None:
        """Make a directory, link, device or pipe."""
        name = clean_name(entry.name)
        parent, _, base = name.rpartition(b"/")
        try:
            if entry.kind == b"5":
                self._directory(name, parent, base, entry)
                return
            if not base:
                raise _hostile(entry.name, "the root of a layer is a directory")
            parent_fd = self._dir_fd(parent)
            if base.startswith(_WHITEOUT):
                self._whiteout(parent, parent_fd, base)
            elif entry.kind == b"2":
                self._symlink(parent_fd, base, entry)
            elif entry.kind == b"1":
                self._hard_link(name, parent_fd, base, entry)
            else:
                self._node(parent_fd, base, entry)
        except (OSError, OverflowError) as error:
            raise _failure(error, "create", entry.name) from error

    # The end

    def finish(self) -> LayerRest:
        """Settle directories; what only the layers below can tell is left to the caller."""
        for name, directory in reversed(self._explicit.items()):
            try:
                self._settle(name, directory)
            except (OSError, OverflowError) as error:
                raise _failure(error, "write", name) from error
        return LayerRest(tuple(sorted(self._implicit)), tuple(self._links))

    def close(self) -> None:
        """Close every descriptor; also after a failure."""
        if self._file is not None and self._file.fd >= 0:
            os.close(self._file.fd)
            self._file = None
        self._forget_dirs()

    # Steps

    def _place(self, entry: Entry) -> tuple[int, bytes]:
        """The parent directory and the last name of a regular file; no name where the entry was a mark."""
        name = entry.name
        if b".." in name or b"//" in name or b"/." in name or name[:1] in b"./" or b"\0" in name:
            name = clean_name(name)
        parent, _, base = name.rpartition(b"/")
        try:
            parent_fd = self._dirs.get(parent)
            if parent_fd is None:
                parent_fd = self._dir_fd(parent)
            if base[:4] == _WHITEOUT:
                self._whiteout(parent, parent_fd, base)
                return -1, b""
        except OSError as error:
            raise _failure(error, "create", entry.name) from error
        if not base:
            raise _hostile(entry.name, "the root of a layer is a directory")
        return parent_fd, base

    def _create(self, parent_fd: int, base: bytes, mode: int) -> int:
        try:
            return os.open(base, _FILE_FLAGS, mode, dir_fd=parent_fd)
        except FileExistsError:
            self._clear(parent_fd, base)
            return os.open(base, _FILE_FLAGS, mode, dir_fd=parent_fd)

    def _dir_fd(self, name: bytes) -> int:
        """The directory `name` of the layer, made (and noted) when the tar did not name it."""
        if not name:
            return self._root_fd
        fd = self._dirs.get(name)
        if fd is not None:
            return fd
        try:
            found = paths.open_in_root(self._root_fd, name, _DIR_FLAGS)
        except FileNotFoundError:
            found = self._make_implicit(name)
        if len(self._dirs) >= _DIRS_OPEN:
            self._forget_dirs()
        fd = found.steal()
        self._dirs[name] = fd
        return fd

    def _make_implicit(self, name: bytes) -> Fd:
        parent, _, base = name.rpartition(b"/")
        parent_fd = self._dir_fd(parent)
        try:
            os.mkdir(base, 0o755, dir_fd=parent_fd)
        except FileExistsError:
            return self._make_behind_link(name)
        self._keep(name, _KEPT_ENTRY_BYTES)
        self._implicit.add(name)
        return paths.open_beneath(parent_fd, base, _DIR_FLAGS)

    def _make_behind_link(self, name: bytes) -> Fd:
        """The directory that a symbolic link of this layer points to, and that is not in this layer."""
        with paths.make_dirs_in_root(self._root_fd, os.fsdecode(name), 0o755) as found:
            root = os.readlink(b"/proc/self/fd/%d" % self._root_fd)
            real = os.readlink(b"/proc/self/fd/%d" % found.fileno()).removeprefix(root).strip(b"/")
        while real and real not in self._explicit:
            self._implicit.add(real)
            real = real.rpartition(b"/")[0]
        return paths.open_in_root(self._root_fd, name, _DIR_FLAGS)

    def _directory(self, name: bytes, parent: bytes, base: bytes, entry: Entry) -> None:
        if name:
            parent_fd = self._dir_fd(parent)
            try:
                os.mkdir(base, 0o700 | (entry.mode & 0o755), dir_fd=parent_fd)
            except FileExistsError:
                there = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
                if not stat.S_ISDIR(there.st_mode):
                    self._clear(parent_fd, base)
                    os.mkdir(base, 0o700, dir_fd=parent_fd)
                    if stat.S_ISCHR(there.st_mode) and there.st_rdev == 0:
                        # The layer removed what was there and made a directory: nothing shines through.
                        self._mark_opaque(parent_fd, base)
        self._implicit.discard(name)
        self._keep(
            name, _KEPT_ENTRY_BYTES + sum(len(v) + _KEPT_ENTRY_BYTES for v in (entry.xattrs or {}).values())
        )
        self._explicit.pop(name, None)
        self._explicit[name] = _Directory(entry)

    def _settle(self, name: bytes, directory: _Directory) -> None:
        try:
            fd = self._dir_fd(name) if name in self._dirs or not name else None
            if fd is not None:
                _settle_directory(fd, directory, keep_owners=self._keep_owners)
                return
            parent, _, base = name.rpartition(b"/")
            with paths.open_beneath(self._dir_fd(parent), base, _DIR_FLAGS) as found:
                _settle_directory(found.fileno(), directory, keep_owners=self._keep_owners)
        except (FileNotFoundError, NotADirectoryError):
            return  # a later entry put something else in its place
        except OSError as error:
            if error.errno != errno.ELOOP:  # likewise, a symbolic link
                raise

    def _whiteout(self, parent: bytes, parent_fd: int, base: bytes) -> None:
        if base == _OPAQUE:
            os.setxattr(parent_fd, self._opaque, b"y")
            return
        if base.startswith(_AUFS_PRIVATE):
            return  # notes of aufs to itself
        hidden = base[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise _hostile(base, "not a whiteout")
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent_fd)
        except FileExistsError:
            # What this layer itself made stays; but nothing from below may shine through a directory.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent_fd, follow_symlinks=False).st_mode):
                self._mark_opaque(parent_fd, hidden)
            return
        self._implicit.discard(parent + b"/" + hidden if parent else hidden)

    def _mark_opaque(self, parent_fd: int, base: bytes) -> None:
        with paths.open_beneath(parent_fd, base, _DIR_FLAGS) as found:
            os.setxattr(found.fileno(), self._opaque, b"y")

    def _symlink(self, parent_fd: int, base: bytes, entry: Entry) -> None:
        if not entry.link or b"\0" in entry.link:
            raise _hostile(entry.name, "a symbolic link without a target")
        try:
            os.symlink(entry.link, base, dir_fd=parent_fd)
        except FileExistsError:
            self._clear(parent_fd, base)
            os.symlink(entry.link, base, dir_fd=parent_fd)
        self._settle_by_name(parent_fd, base, entry)

    def _hard_link(self, name: bytes, parent_fd: int, base: bytes, entry: Entry) -> None:
        target = clean_name(entry.link)
        target_parent, _, target_base = target.rpartition(b"/")
        if not target_base:
            raise _hostile(entry.name, "a hard link to the root")
        if target == name:
            return
        try:
            source_fd = self._dirs.get(target_parent, -1) if target_parent else self._root_fd
            if source_fd < 0:
                with paths.open_in_root(self._root_fd, target_parent, os.O_PATH | os.O_DIRECTORY) as found:
                    self._link(found.fileno(), target_base, parent_fd, base)
            else:
                self._link(source_fd, target_base, parent_fd, base)
        except (FileNotFoundError, NotADirectoryError):
            self._keep(name, len(target) + _KEPT_ENTRY_BYTES)
            self._links.append((name, target))

    def _link(self, source_fd: int, target: bytes, parent_fd: int, base: bytes) -> None:
        try:
            os.link(target, base, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        except FileExistsError:
            source = os.stat(target, dir_fd=source_fd, follow_symlinks=False)
            there = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
            if os.path.samestat(source, there):
                return
            self._clear(parent_fd, base, source_fd)
            os.link(target, base, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)

    def _node(self, parent_fd: int, base: bytes, entry: Entry) -> None:
        kind = _NODE_TYPES[entry.kind]
        device = os.makedev(*entry.device) if kind != stat.S_IFIFO else 0
        try:
            try:
                os.mknod(base, kind | entry.mode, device, dir_fd=parent_fd)
            except FileExistsError:
                self._clear(parent_fd, base)
                os.mknod(base, kind | entry.mode, device, dir_fd=parent_fd)
        except PermissionError as error:
            raise PermissionDenied(
                "unpack layer",
                repr(os.fsdecode(entry.name)),
                "a device node needs CAP_MKNOD in the first user namespace",
                hint="unpack this image as the host's root",
            ) from error
        if (entry.uid or entry.gid) and self._keep_owners:
            os.chmod(
                base, entry.mode, dir_fd=parent_fd
            )  # before the owner: not through a link, it was just made
        self._settle_by_name(parent_fd, base, entry)

    def _settle_by_name(self, parent_fd: int, base: bytes, entry: Entry) -> None:
        """Owner, attributes and times of what cannot be opened (links, devices, pipes)."""
        if (entry.uid or entry.gid) and self._keep_owners:
            os.chown(base, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        for key, value in (entry.xattrs or {}).items():
            if not key.startswith(_OVERLAY_MARKS):
                path = b"/proc/self/fd/%d/%s" % (parent_fd, base)
                _set_xattr(path, key, value)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _clear(self, parent_fd: int, base: bytes, in_use_fd: int = -1) -> None:
        """Remove what an earlier entry of this layer put here; the caller's two descriptors stay open."""
        kind = os.stat(base, dir_fd=parent_fd, follow_symlinks=False).st_mode
        if stat.S_ISDIR(kind) or stat.S_ISLNK(kind):
            self._forget_dirs(
                parent_fd, in_use_fd
            )  # paths through it may be open, and lead elsewhere from now on
        if stat.S_ISDIR(kind):
            _remove_tree(parent_fd, base)
        else:
            os.unlink(base, dir_fd=parent_fd)

    def _forget_dirs(self, *kept: int) -> None:
        for name, fd in list(self._dirs.items()):
            if fd not in kept:
                del self._dirs[name]
                os.close(fd)

    def _keep(self, name: bytes, size: int) -> None:
        """Count what is remembered until the layer's end: a small blob may hold millions of directories."""
        self._kept_bytes += len(name) + size
        if self._kept_bytes > _KEPT_LIMIT_BYTES:
            raise _hostile(name, f"more than {_KEPT_LIMIT_BYTES} bytes of directories and links to remember")


class _OpenFile:
    """The file being written, and where in its map of segments it is."""

    __slots__ = ("entry", "fd", "left", "offset", "pending")

    def __init__(self, entry: Entry, fd: int) -> None:
        self.entry = entry
        self.fd = fd
        self.pending = iter(entry.segments or ())
        self.offset = 0
        self.left = 0

    def write_sparse(self, data: memoryview) -> None:
        while data:
            if not self.left:
                self.offset, self.left = next(self.pending)
            written = os.pwrite(self.fd, data[: self.left], self.offset)
            data = data[written:]
            self.offset += written
            self.left -= written


def clean_name(name: bytes) -> bytes:
    """`name` without leading, doubled and trailing slashes and without "."; empty for the root.

    Raises:
        DataLoss: it has a ".." or a NUL.
    """
    if b"\0" in name:
        raise _hostile(name, "its name has a NUL")
    names = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in names:
        raise _hostile(name, "its path leaves the root with '..'")
    return b"/".join(names)


def _settle_directory(fd: int, directory: _Directory, *, keep_owners: bool) -> None:
    if keep_owners:
        os.fchown(fd, directory.uid, directory.gid)
    os.fchmod(fd, directory.mode)
    if directory.xattrs is not None:
        _set_xattrs(fd, directory.xattrs)
    os.utime(fd, ns=(directory.mtime_ns, directory.mtime_ns))


def _set_xattrs(fd: int, xattrs: dict[str, bytes]) -> None:
    for key, value in xattrs.items():
        if not key.startswith(_OVERLAY_MARKS):
            _set_xattr(fd, key, value)


def _set_xattr(target: int | bytes, key: str, value: bytes) -> None:
    try:
        if isinstance(target, int):
            os.setxattr(target, key, value)
        else:
            os.setxattr(target, key, value, follow_symlinks=False)
    except OSError as error:
        # As other unpackers: a file system without such attributes still gets the files.
        if error.errno != errno.ENOTSUP:
            raise


def _remove_tree(parent_fd: int, base: bytes) -> None:
    with paths.open_beneath(parent_fd, base, _DIR_FLAGS) as found, os.scandir(found.fileno()) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(found.fileno(), os.fsencode(entry.name))
            else:
                os.unlink(entry.name, dir_fd=found.fileno())
    os.rmdir(base, dir_fd=parent_fd)


def _hostile(name: bytes, cause: str) -> DataLoss:
    return DataLoss("unpack layer", f"entry {os.fsdecode(name[:300])!r}", cause)


def _failure(error: OSError | OverflowError, step: str, name: bytes) -> OakumError:
    subject = repr(os.fsdecode(name[:300]))
    if isinstance(error, OverflowError):
        return DataLoss("unpack layer", f"entry {subject}", "a number is out of range")
    if error.errno in (
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EINVAL,
        errno.EXDEV,
        errno.EFBIG,
    ):
        return DataLoss("unpack layer", f"entry {subject}", os.strerror(error.errno))
    return storage_error(error, f"{step} file of layer", subject)
