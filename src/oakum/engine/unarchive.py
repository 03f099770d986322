# SPDX-License-Identifier: Apache-2.0
"""A container's archive of `engine.checkpoints` back into a bundle and a writable layer. What may be restored is not decided here.

Of a pod's checkpoint the archive's bytes come from `sealed.Checkpoint.read`, of a single container's its members from
`engine.sealed_archive`: either says only at the end that they are what was sealed. Until then nothing is written but into
files of the container's own bundle, whose names come from a fixed set of letters. Then the layer is written as any image's
is, by descriptors that the kernel resolved in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, cast

from oakum.engine import sealed_archive
from oakum.engine.sealed import FileFacts
from oakum.engine.storage import storing
from oakum.errors import DataLoss
from oakum.images.layerfiles import LayerWriter
from oakum.images.tarstream import Entry, Sink, TarReader
from oakum.linux.fd import Fd
from oakum.linux.namespaces import unshare
from oakum.linux.paths import open_beneath

_OPERATION: Final = "restore container"
_DIFF: Final = "rootfs-diff.tar"
_LISTS: Final = ("deleted.files", "opaque.dirs")
_LIST_LIMIT_BYTES: Final = 64 << 20
# What is there for people only, or was read before.
_UNREAD: Final = (
    "config.dump", "spec.dump", "dump.log", "stats-dump", sealed_archive.FACTS, sealed_archive.SEAL
)  # fmt: skip
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_READ_BYTES: Final = 1 << 20
_CLONE_FS: Final = 0x200


def take_container(archive: Iterable[bytes], bundle: str, images: str, upper: str) -> None:
    """Put CRIU's images into `bundle`/`images`, and what the container had written into its layer `upper`.

    Raises:
        DataLoss: the archive is damaged; the layer is untouched.
        SystemFailure, ResourceExhausted: it could not be written.
    """
    _take(lambda sink: _read(archive, TarReader(sink)), None, bundle, images, upper)


def take_members(
    put: Callable[[Sink], None], files: Sequence[FileFacts], bundle: str, images: str, upper: str
) -> None:
    """As `take_container`, of members that `put` hands over and that have to be `files`. Raises as it."""
    _take(put, {file.name: file for file in files}, bundle, images, upper)


def _take(
    put: Callable[[Sink], None], files: dict[str, FileFacts] | None, bundle: str, images: str, upper: str
) -> None:
    with storing("write checkpoint", bundle):
        os.mkdir(f"{bundle}/{images}", 0o700)
    members = Members(f"{bundle}/{images}", f"{bundle}/{_DIFF}", f"{images}/", files)
    try:
        with storing("write checkpoint", bundle):
            put(members)
        members.check_all()
        deleted, opaque = (_names(members.lists.get(name)) for name in _LISTS)
        with open(f"{bundle}/{_DIFF}", "rb") as diff:
            pieces = iter(lambda: diff.read(_READ_BYTES), b"")
            _write_tree(pieces, upper, lambda fd: _hide(fd, deleted, opaque))
    except FileNotFoundError as failure:
        raise DataLoss(_OPERATION, _DIFF, "it is not in the archive") from failure
    finally:
        members.close()
        if os.path.exists(f"{bundle}/{_DIFF}"):
            os.unlink(f"{bundle}/{_DIFF}")


def take_shared_memory(archive: Iterable[bytes], directory: str, target: str) -> None:
    """Put an archive's files below `target`; it lies in `directory` until it is known to be whole. Raises as above."""
    path = f"{directory}/shm.tar"
    with storing("write shared memory", target):
        try:
            with open(path, "xb") as file:
                for piece in archive:
                    file.write(piece)
            with open(path, "rb") as file:
                _write_tree(iter(lambda: file.read(_READ_BYTES), b""), target, _nothing)
        finally:
            os.unlink(path)


class Members:
    """A `tarstream.Sink` for the archive itself: regular files of known names only, and of `files` if that is given."""

    def __init__(
        self, images: str, diff: str, prefix: str, files: dict[str, FileFacts] | None = None
    ) -> None:
        self._images = images
        self._diff = diff
        self._prefix = prefix.encode()
        self._left = None if files is None else dict(files)
        self._wanted: FileFacts | None = None
        self._digest = hashlib.sha256()
        self._file: Fd | None = None
        self._list: bytearray | None = None
        self.lists: dict[str, bytearray] = {}

    def whole_file(self, entry: Entry, data: memoryview) -> None:
        """A member whose content is at hand."""
        self.begin_file(entry)
        self.file_data(data)
        self.end_file()

    def begin_file(self, entry: Entry) -> None:
        """A member whose content follows."""
        name = entry.name.decode("ascii", "replace")
        if entry.segments is not None:
            raise _refused(name, "a file with holes")
        image = name.removeprefix(self._prefix.decode())
        if self._left is not None and name not in _UNREAD:
            self._wanted = self._left.pop(name, None)
            self._digest = hashlib.sha256()
            if self._wanted is None or self._wanted.size_bytes != entry.size:
                raise _refused(name, "not what was sealed")
        if name in _LISTS and entry.size <= _LIST_LIMIT_BYTES and name not in self.lists:
            self._list = self.lists[name] = bytearray()
        elif name == _DIFF:
            self._file = _create(self._diff, name)
        elif entry.name.startswith(self._prefix) and _is_image(image):
            self._file = _create(f"{self._images}/{image}", name)
        elif name not in _UNREAD:
            raise _refused(name, "not a member that we write")

    def file_data(self, data: memoryview) -> None:
        """The next piece."""
        if self._wanted is not None:
            self._digest.update(data)
        if self._list is not None:
            self._list += data
        elif self._file is not None:
            written = 0
            while written < len(data):
                written += os.write(self._file.fileno(), data[written:])

    def end_file(self) -> None:
        """The member is complete."""
        self.close()
        wanted, self._wanted = self._wanted, None
        if wanted is not None and self._digest.hexdigest() != wanted.sha256:
            raise _refused(wanted.name, "not what was sealed")

    def check_all(self) -> None:
        """Raise DataLoss unless all files have come that are to."""
        for name in self._left or ():
            raise DataLoss(_OPERATION, name[:64], "it is not in the archive")

    def other(self, entry: Entry) -> None:
        """No member is anything but a regular file."""
        raise _refused(entry.name.decode("ascii", "replace"), "not a regular file")

    def close(self) -> None:
        """Close what is open; also after a failure."""
        self._list = None
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_image(name: str) -> bool:
    return 0 < len(name) < 200 and name[0] != "." and _LETTERS.issuperset(name)


def _create(path: str, name: str) -> Fd:
    try:
        return Fd(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as failure:
        raise _refused(name, "it comes twice") from failure


def _refused(name: str, why: str) -> DataLoss:
    return DataLoss(_OPERATION, f"archive member {name[:64]!r}", why)


def _read(archive: Iterable[bytes], reader: TarReader) -> None:
    for piece in archive:
        reader.feed(piece)
    reader.finish()


def _names(text: bytearray | None) -> list[bytes]:
    """The paths of one of the lists. Raises DataLoss."""
    try:
        found: object = json.loads(bytes(text or b"[]"))
        if isinstance(found, list) and all(isinstance(name, str) for name in cast("list[object]", found)):
            return [os.fsencode(name) for name in cast("list[str]", found)]
    except (ValueError, RecursionError) as failure:
        raise DataLoss(_OPERATION, "list of files", str(failure)) from failure
    raise DataLoss(_OPERATION, "list of files", "not a list of names")


def _nothing(_fd: int) -> None:
    """A tree that hides nothing."""


def _write_tree(archive: Iterable[bytes], directory: str, settle: Callable[[int], None]) -> None:
    """Write an archive of `checkpoints.write_changes` into a directory; `settle` is called before times are set."""

    def write() -> None:
        unshare(_CLONE_FS)  # the umask is this thread's alone from here on
        os.umask(0)
        with Fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
            writer = LayerWriter(top.fileno())
            try:
                _read(archive, TarReader(writer))
                settle(top.fileno())
                writer.finish()
            finally:
                writer.close()

    with ThreadPoolExecutor(1) as thread, storing("write files", directory):
        thread.submit(write).result()


def _hide(top_fd: int, deleted: list[bytes], opaque: list[bytes]) -> None:
    """Hide what the container had deleted of its image. Source: Documentation/filesystems/overlayfs.rst."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    for path in deleted:
        parent, _, name = path.rpartition(b"/")
        if name in (b"", b".", b"..") or b"\0" in path:
            raise _refused(os.fsdecode(path), "not a path")
        with open_beneath(top_fd, parent or b".", flags) as directory:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory.fileno())
    for path in opaque:
        with open_beneath(top_fd, path, flags) as directory:
            os.setxattr(directory.fileno(), "trusted.overlay.opaque", b"y")
