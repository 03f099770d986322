# SPDX-License-Identifier: Apache-2.0
"""The seal of a single container's archive, and the two places that such an archive is restored from.

    oakum.json   `ArchiveFacts`, with the size and hash of every member that is restored; the archive's first member
    oakum.seal   an HMAC of it with this host's key, as of a pod's checkpoint (`engine.sealed`); the second one

The archive is a file, or lies unpacked as the one layer of an image, as tools for checkpoints make it: then its bytes and
the order of its members are others, its members are not. Nothing is believed before the seal is checked, and no member
before its hash is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec

from oakum.backend.config import SandboxConfig
from oakum.engine import sealed
from oakum.engine.layout import Layout
from oakum.errors import DataLoss, InvalidArgument, NotFound, SystemFailure
from oakum.images.tarstream import Entry, Sink, TarReader
from oakum.linux.fd import Fd

FACTS: Final = "oakum.json"
SEAL: Final = "oakum.seal"
# So that nothing else that this key has sealed is taken for one.
_SEALED_AS: Final = b"container archive\n"
_OPERATION: Final = "read checkpoint"
_READ_BYTES: Final = 1 << 20
_NO_PATH: Final = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)


class ArchiveFacts(sealed.Facts, frozen=True, kw_only=True):
    """A container at the checkpoint, its pod, and where to pull its image from; `files` are the archive's members."""

    container: sealed.ContainerFacts
    sandbox: SandboxConfig
    pull_name: str
    files: tuple[sealed.FileFacts, ...]


class Archive(NamedTuple):
    """An archive whose seal is ours; `put` hands its members to a sink, which has to check them."""

    facts: ArchiveFacts
    put: Callable[[Sink], None]


def members(layout: Layout, facts: ArchiveFacts) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """The members that the archive begins with. Raises SystemFailure, ResourceExhausted."""
    text = msgspec.json.encode(facts)
    return (FACTS, text), (SEAL, sealed.seal_of(layout, _SEALED_AS + text))


@contextmanager
def opened_file(layout: Layout, path: str) -> Generator[Archive]:
    """An archive that is a file.

    Raises:
        NotFound: there is none.
        InvalidArgument: it is none, or of a version that we do not know.
        PermissionDenied: it was not sealed with this host's key.
        DataLoss: it is damaged.
    """
    subject = f"image {path[:128]!r}"
    try:
        fd = Fd(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError as failure:
        raise NotFound(_OPERATION, subject, "there is no such file") from failure
    except ValueError as failure:
        raise InvalidArgument(_OPERATION, subject, "not the path of an archive") from failure
    except OSError as failure:
        if failure.errno in _NO_PATH:
            raise InvalidArgument(_OPERATION, subject, failure.strerror or str(failure)) from failure
        raise SystemFailure.from_os_error(failure, _OPERATION, subject) from failure
    with fd:
        if not stat.S_ISREG(os.fstat(fd.fileno()).st_mode):
            raise InvalidArgument(_OPERATION, subject, "not a file that CheckpointContainer has written")

        def put(sink: Sink) -> None:
            reader = TarReader(sink)
            for piece in _pieces(fd):
                reader.feed(piece)
            reader.finish()

        yield Archive(_beginning(layout, fd, subject), put)


@contextmanager
def opened_directory(layout: Layout, path: str, subject: str) -> Generator[Archive]:
    """An archive that lies unpacked in a directory, with whatever else is in there. Raises as above."""
    subject = f"image {subject[:128]!r}"
    try:
        directory = Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, _OPERATION, subject) from failure
    with directory:
        try:
            text, seal = (sealed.small(directory.fileno(), name) for name in (FACTS, SEAL))
        except DataLoss as failure:
            raise sealed.not_ours(layout, subject) from failure
        facts = _believed(layout, text, seal, subject)

        def put(sink: Sink) -> None:
            for file in facts.files:
                _put_file(directory, file, sink)

        yield Archive(facts, put)


def _believed(layout: Layout, text: bytes, seal: bytes, subject: str) -> ArchiveFacts:
    return sealed.believed(layout, text, seal, ArchiveFacts, subject, sealed_as=_SEALED_AS)


def _put_file(directory: Fd, wanted: sealed.FileFacts, sink: Sink) -> None:
    with sealed.open_file(directory.fileno(), wanted.name) as file:
        left = os.fstat(file.fileno()).st_size
        sink.begin_file(Entry(wanted.name.encode(), b"0", 0o600, 0, 0, left, 0))
        while left:
            data = os.read(file.fileno(), min(left, _READ_BYTES))
            if not data:
                raise DataLoss(_OPERATION, wanted.name[:64], "it became shorter")
            sink.file_data(memoryview(data))
            left -= len(data)
        sink.end_file()


def _pieces(fd: Fd) -> Generator[bytes]:
    place = 0
    while piece := os.pread(fd.fileno(), _READ_BYTES, place):
        place += len(piece)
        yield piece


def _beginning(layout: Layout, fd: Fd, subject: str) -> ArchiveFacts:
    """What the first two members say."""
    found = _Beginning()
    reader = TarReader(found)
    try:
        for piece in _pieces(fd):
            reader.feed(piece)
            if found.over:
                break
        else:
            reader.finish()
    except DataLoss as failure:
        if not found.over:
            raise InvalidArgument(
                _OPERATION, subject, f"not an archive of a container: {failure}"
            ) from failure
    if found.names != [FACTS.encode(), SEAL.encode()]:
        raise sealed.not_ours(layout, subject)
    return _believed(layout, bytes(found.data[0]), bytes(found.data[1]), subject)


class _Beginning:
    """A `tarstream.Sink` that keeps the first two members, and sees when they are over."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.data: list[bytearray] = []
        self.over = False

    def whole_file(self, entry: Entry, data: memoryview) -> None:
        """A member whose content is at hand."""
        self.begin_file(entry)
        self.file_data(data)
        self.end_file()

    def begin_file(self, entry: Entry) -> None:
        """A member whose content follows."""
        expected = (FACTS, SEAL)[len(self.names)].encode() if len(self.names) < 2 else b""
        if entry.name != expected or entry.segments is not None or entry.size > sealed.FACTS_LIMIT_BYTES:
            self.over = True
        if not self.over:
            self.names.append(entry.name)
            self.data.append(bytearray())

    def file_data(self, data: memoryview) -> None:
        """The next piece."""
        if not self.over:
            self.data[-1] += data

    def end_file(self) -> None:
        """The member is complete."""
        self.over = self.over or len(self.names) == 2

    def other(self, entry: Entry) -> None:
        """Neither of the two is anything but a file."""
        del entry
        self.over = True
