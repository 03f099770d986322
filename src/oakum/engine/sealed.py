# SPDX-License-Identifier: Apache-2.0
"""What a pod's checkpoint says about itself, and the seal by which this host knows that nobody else wrote it.

    pod.json   `PodFacts`, with the size and hash of every other file
    pod.seal   an HMAC of pod.json with ROOT/checkpoint.key

CRIU believes its images: who writes them chooses what runs, and with which rights. So only what was sealed with our key is
restored. A checkpoint may be carried to another host by whoever carries the key there, too. Nothing but sizes is
believed before the seal is checked, and no file before its hash is.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedRandom, BufferedReader
from typing import Final, TypeVar

import msgspec

from oakum.backend.config import ContainerConfig, SandboxConfig, Struct
from oakum.engine.layout import Layout
from oakum.engine.storage import storing
from oakum.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, SystemFailure
from oakum.linux.durable import write_file
from oakum.linux.fd import Fd
from oakum.linux.paths import open_beneath

VERSION: Final = 1
_FACTS: Final = "pod.json"
_SEAL: Final = "pod.seal"
FACTS_LIMIT_BYTES: Final = 16 << 20
_KEY_BYTES: Final = 32
_READ_BYTES: Final = 1 << 20
_OPERATION: Final = "read checkpoint"


class FileFacts(Struct, frozen=True):
    """A file of the checkpoint; its name has no directory."""

    name: str
    size_bytes: int
    sha256: str


class ContainerFacts(Struct, frozen=True, kw_only=True):
    """A container at the checkpoint; `obstacle` is why it cannot be restored."""

    id: str
    name: str
    config: ContainerConfig
    image_id: str
    obstacle: str = ""


class PodContainerFacts(ContainerFacts, frozen=True, kw_only=True):
    """A container of a pod's checkpoint, and its archive."""

    archive: FileFacts


class Facts(Struct, frozen=True, kw_only=True):
    """What was sealed, and where; `id` is the checkpointed object's."""

    version: int
    id: str
    runtime: str
    machine: str
    snapshots: str


class PodFacts(Facts, frozen=True, kw_only=True):
    """A pod at the checkpoint; `shared_memory` is an archive of its /dev/shm, `obstacle` is why it cannot be restored."""

    config: SandboxConfig
    containers: tuple[PodContainerFacts, ...]
    shared_memory: FileFacts | None = None
    obstacle: str = ""


_Facts = TypeVar("_Facts", bound=Facts)


def write(layout: Layout, directory: str, facts: PodFacts) -> None:
    """Write facts and seal into a checkpoint's directory. Raises SystemFailure, ResourceExhausted."""
    text = msgspec.json.encode(facts)
    with storing("write pod checkpoint", directory):
        write_file(f"{directory}/{_FACTS}", text)
        write_file(f"{directory}/{_SEAL}", seal_of(layout, text))


def describe(directory: str, name: str) -> FileFacts:
    """A file that was just written. Raises SystemFailure."""
    with storing("read", f"{directory}/{name}"), open(f"{directory}/{name}", "rb") as file:
        return described(file, name)


def described(file: BufferedReader | BufferedRandom, name: str) -> FileFacts:
    """An open file, read from where it stands to its end."""
    digest = hashlib.file_digest(file, "sha256")
    return FileFacts(name=name, size_bytes=file.tell(), sha256=digest.hexdigest())


def described_bytes(data: bytes, name: str) -> FileFacts:
    """A file that has this in it."""
    return FileFacts(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def seal_of(layout: Layout, text: bytes) -> bytes:
    """The seal of a text by this host's key, which is made when it is asked for first."""
    return _seal(_own_key(layout), text)


class Checkpoint:
    """A checkpoint's directory whose seal is ours."""

    def __init__(self, path: str, directory_fd: int, facts: PodFacts) -> None:
        self.path = path
        self._directory_fd = directory_fd
        self.facts = facts

    def read(self, wanted: FileFacts) -> Generator[bytes]:
        """A file's content in pieces; it is what was sealed only if this ends without DataLoss.

        Raises:
            DataLoss: it is not there, not whole, or not what was sealed.
        """
        digest = hashlib.sha256()
        left = wanted.size_bytes
        with open_file(self._directory_fd, wanted.name) as file:
            if os.fstat(file.fileno()).st_size != left:
                raise DataLoss(_OPERATION, wanted.name, f"it has not the {left} bytes that it had")
            while left:
                data = os.read(file.fileno(), min(left, _READ_BYTES))
                if not data:
                    raise DataLoss(_OPERATION, wanted.name, "it became shorter")
                digest.update(data)
                left -= len(data)
                yield data
        if not hmac.compare_digest(digest.hexdigest(), wanted.sha256):
            raise DataLoss(_OPERATION, wanted.name, "it is not what was sealed")


@contextmanager
def opened(layout: Layout, path: str) -> Generator[Checkpoint]:
    """A checkpoint to read from.

    Raises:
        NotFound: there is none.
        InvalidArgument: it is no directory of a pod's checkpoint, or of a version that we do not know.
        PermissionDenied: it was not sealed with this host's key.
        DataLoss: it is damaged.
    """
    subject = f"checkpoint_path {path[:64]!r}"
    try:
        directory = Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError as failure:
        raise NotFound(_OPERATION, subject, "there is no such directory") from failure
    except (NotADirectoryError, ValueError) as failure:
        raise InvalidArgument(_OPERATION, subject, "not a directory of CheckpointPod") from failure
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, _OPERATION, subject) from failure
    with directory:
        text = small(directory.fileno(), _FACTS)
        seal = small(directory.fileno(), _SEAL)
        yield Checkpoint(path, directory.fileno(), believed(layout, text, seal, PodFacts, subject))


def believed(
    layout: Layout, text: bytes, seal: bytes, kind: type[_Facts], subject: str, *, sealed_as: bytes = b""
) -> _Facts:
    """What a sealed text says; `sealed_as` stood before it when it was sealed. Raises as `opened`."""
    key = _key(layout)
    if key is None or not hmac.compare_digest(_seal(key, sealed_as + text), seal):
        raise not_ours(layout, subject)
    try:
        facts = msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as failure:
        raise InvalidArgument(_OPERATION, subject, f"of a version we do not know: {failure}") from failure
    if facts.version != VERSION:
        raise InvalidArgument(_OPERATION, subject, f"its version is {facts.version}, not {VERSION}")
    return facts


def not_ours(layout: Layout, subject: str) -> PermissionDenied:
    """Why something without our seal is not restored."""
    return PermissionDenied(
        _OPERATION,
        subject,
        "it was not sealed with this host's key",
        hint=f"CRIU believes what it restores. From another host: bring its {key_path(layout)} too",
    )


def key_path(layout: Layout) -> str:
    """Where this host's key is."""
    return f"{layout.root}/checkpoint.key"


def small(directory_fd: int, name: str) -> bytes:
    """What is in a file of the directory that is to be read at once. Raises DataLoss."""
    with open_file(directory_fd, name) as file:
        data = bytearray()
        while len(data) <= FACTS_LIMIT_BYTES:
            piece = os.read(file.fileno(), _READ_BYTES)
            if not piece:
                return bytes(data)
            data += piece
    raise DataLoss(_OPERATION, name, f"it has over {FACTS_LIMIT_BYTES} bytes")


def open_file(directory_fd: int, name: str) -> Fd:
    """A regular file in the directory or below it, no link on the way. Raises DataLoss."""
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise DataLoss(_OPERATION, repr(name[:64]), "not the name of a file")
    try:
        file = open_beneath(directory_fd, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as failure:
        raise DataLoss(_OPERATION, name[:64], failure.strerror or str(failure)) from failure
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataLoss(_OPERATION, name[:64], "not a regular file")
    return file


def _seal(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256").hex().encode() + b"\n"


def _own_key(layout: Layout) -> bytes:
    """The host's key, made when it is asked for first."""
    while (key := _key(layout)) is None:
        temporary = f"{key_path(layout)}.{os.urandom(6).hex()}"
        write_file(temporary, os.urandom(_KEY_BYTES))
        try:
            os.link(temporary, key_path(layout))
        except FileExistsError:
            continue  # somebody else's is as good
        finally:
            os.unlink(temporary)
    return key


def _key(layout: Layout) -> bytes | None:
    """The host's key; None when it has none yet. Raises DataLoss, PermissionDenied."""
    path = key_path(layout)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(key) != _KEY_BYTES:
        raise DataLoss(_OPERATION, path, f"a key has {_KEY_BYTES} bytes", hint="remove it: the next is made")
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise PermissionDenied(_OPERATION, path, "others than its owner may read the key", hint="chmod 600")
    return key
