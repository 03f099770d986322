# SPDX-License-Identifier: Apache-2.0
"""Blobs by digest on disk: whole and verified under blobs/, on their way under ingest/. Owns no names of images.

Several processes share one store. A blob is brought in by whoever holds the flock on its ingest file; the others
wait and find it done. A killed writer leaves its part, which the next one checks and carries on with.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from oakum.errors import Cancelled, DataLoss, NotFound, ResourceExhausted, SystemFailure
from oakum.images.digests import check_digest, hasher_for, is_digest
from oakum.linux.durable import sync_directory
from oakum.linux.fd import Fd

_READ_BYTES: Final = 1 << 20
_LOCK_POLL_S: Final = 0.02
_STALE_S: Final = 24 * 3600.0


class BlobInfo(NamedTuple):
    """A blob of the store."""

    digest: str
    size_bytes: int


class Ingest:
    """One blob on its way in. Its holder has the only right to write it; `close` gives that up.

    Written bytes are hashed as they come. `offset` is how many are there, after a resume more than none.
    """

    def __init__(self, store: ContentStore, digest: str, size: int, path: str, fd: Fd) -> None:
        self.digest = digest
        self.size = size
        self.path = path
        self._store = store
        self._fd = fd
        self._hash = hasher_for(digest)
        self.offset = self._hash_existing()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            DataLoss: the blob would get longer than was declared.
            ResourceExhausted: the disk is full.
        """
        if self.offset + len(data) > self.size:
            raise DataLoss("download blob", self.digest, f"longer than the {self.size} bytes declared")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd.fileno(), view) :]
        except OSError as error:
            raise storage_error(error, "write blob", self.digest) from error
        self._hash.update(data)
        self.offset += len(data)

    def restart(self) -> None:
        """Forget all that was written."""
        os.ftruncate(self._fd.fileno(), 0)
        os.lseek(self._fd.fileno(), 0, os.SEEK_SET)
        self._hash = hasher_for(self.digest)
        self.offset = 0

    def verify(self) -> None:
        """Check length and digest.

        Raises:
            DataLoss: either is wrong; what was written is forgotten.
        """
        found = f"{self.digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if self.offset != self.size:
            cause = f"{self.offset} bytes came, {self.size} were declared"
        elif found != self.digest:
            cause = f"its content has the digest {found}"
        else:
            return
        self.restart()
        raise DataLoss(
            "verify blob", self.digest, cause, hint="the registry or the line damaged it; pull again"
        )

    def commit(self) -> None:
        """Verify, make durable and visible, and let go.

        Raises:
            DataLoss: as `verify`.
            ResourceExhausted: the disk is full.
        """
        self.verify()
        try:
            os.fsync(self._fd.fileno())
            os.fchmod(self._fd.fileno(), 0o444)
            target = self._store.path(self.digest)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.rename(self.path, target)
            sync_directory(os.path.dirname(target))
        except OSError as error:
            raise storage_error(error, "store blob", self.digest) from error
        finally:
            self._fd.close()

    def close(self, *, keep: bool = True) -> None:
        """Let go without committing; what was written stays for a resume only with `keep`."""
        if self._fd.closed:
            return
        if not keep or self.offset == 0:
            _unlink(self.path)
        self._fd.close()

    def _hash_existing(self) -> int:
        fd = self._fd.fileno()
        found = os.fstat(fd).st_size
        if found > self.size:
            os.ftruncate(fd, 0)
            return 0
        offset = 0
        while chunk := os.pread(fd, _READ_BYTES, offset):
            self._hash.update(chunk)
            offset += len(chunk)
        os.lseek(fd, offset, os.SEEK_SET)
        return offset


class ContentStore:
    """The blobs under one directory, shared by all namespaces and by any number of processes."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._ingest = os.path.join(directory, "ingest")
        for algorithm in ("sha256", "sha512"):
            os.makedirs(os.path.join(directory, "blobs", algorithm), mode=0o700, exist_ok=True)
        os.makedirs(self._ingest, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where the blob is, or would be. Raises InvalidArgument for what is no digest."""
        algorithm, _, encoded = check_digest(digest).partition(":")
        return os.path.join(self.directory, "blobs", algorithm, encoded)

    def ingest_path(self, digest: str) -> str:
        """Where the blob is while it comes in. Raises InvalidArgument for what is no digest."""
        return os.path.join(self._ingest, check_digest(digest).replace(":", "-"))

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """The blob's length in bytes. Raises NotFound."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError as error:
            raise NotFound("find blob", digest, "not in the store") from error

    def open_blob(self, digest: str) -> Fd:
        """The blob, open for reading. Raises NotFound."""
        try:
            return Fd(os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise NotFound("open blob", digest, "not in the store") from error
        except OSError as error:
            raise SystemFailure.from_os_error(error, "open blob", digest) from error

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """A small blob's bytes, verified once more.

        Raises:
            NotFound: it is not here.
            DataLoss: it is longer than `limit_bytes`, or was damaged on disk.
        """
        with self.open_blob(digest) as fd:
            data = b""
            while chunk := os.read(fd.fileno(), limit_bytes + 1 - len(data)):
                data += chunk
        if len(data) > limit_bytes:
            raise DataLoss("read blob", digest, f"longer than {limit_bytes} bytes")
        hasher = hasher_for(digest)
        hasher.update(data)
        if hasher.hexdigest() != digest.partition(":")[2]:
            raise DataLoss("read blob", digest, "damaged on disk", hint="remove the image and pull it again")
        return data

    def try_ingest(self, digest: str, size: int) -> Ingest | None:
        """The right to bring in a blob of `size` bytes; None while somebody else has it, or when it is here.

        Ask `has` first and again after None. Raises ResourceExhausted, SystemFailure.
        """
        path = self.ingest_path(digest)
        try:
            while True:
                fd = Fd(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                try:
                    fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _still_at(fd.fileno(), path):
                        break
                except BlockingIOError:
                    fd.close()
                    return None
                except BaseException:
                    fd.close()
                    raise
                fd.close()  # it was committed or removed between open and flock
        except OSError as error:
            raise storage_error(error, "store blob", digest) from error
        if self.has(digest):
            _unlink(path)
            fd.close()
            return None
        try:
            return Ingest(self, digest, size, path, fd)
        except BaseException:
            fd.close()
            raise

    def ingest(self, digest: str, size: int, cancelled: Callable[[], bool] | None = None) -> Ingest | None:
        """As `try_ingest`, but waits for somebody else's turn to end; None only when the blob is here.

        Raises:
            Cancelled: `cancelled` said so while waiting.
        """
        while not self.has(digest):
            if (ingest := self.try_ingest(digest, size)) is not None:
                return ingest
            if cancelled is not None and cancelled():
                raise Cancelled("wait for blob", digest, "cancelled")
            time.sleep(_LOCK_POLL_S)
        return None

    def write_blob(self, data: bytes, digest: str) -> None:
        """Store bytes that are at hand. Raises DataLoss when they have not that digest."""
        ingest = self.ingest(digest, len(data))
        if ingest is None:
            return
        try:
            ingest.restart()
            ingest.write(data)
            ingest.commit()
        finally:
            ingest.close(keep=False)

    def delete(self, digest: str) -> int:
        """Remove a blob; the bytes freed, 0 when it was gone."""
        path = self.path(digest)
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise SystemFailure.from_os_error(error, "delete blob", digest) from error
        return size

    def list(self) -> Iterator[BlobInfo]:
        """Every blob of the store."""
        for algorithm in ("sha256", "sha512"):
            with os.scandir(os.path.join(self.directory, "blobs", algorithm)) as entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    if is_digest(digest):
                        found = entry.stat(follow_symlinks=False)
                        yield BlobInfo(digest, found.st_size)

    def cleanup(self, *, older_than_s: float = _STALE_S) -> int:
        """Remove parts of blobs that nobody works on and nobody touched for `older_than_s`; the bytes freed."""
        freed = 0
        oldest = time.time() - older_than_s
        with os.scandir(self._ingest) as entries:
            paths = [entry.path for entry in entries]
        for path in paths:
            try:
                fd = Fd(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
            except FileNotFoundError:
                continue
            with fd:
                try:
                    fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                found = os.fstat(fd.fileno())
                if found.st_mtime <= oldest and _still_at(fd.fileno(), path):
                    _unlink(path)
                    freed += found.st_size
        return freed


def storage_error(error: OSError, operation: str, subject: str) -> ResourceExhausted | SystemFailure:
    """The error that says a write failed, and on what; a full disk is named as such."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(operation, subject, os.strerror(error.errno), hint="free some disk space")
    return SystemFailure.from_os_error(error, operation, subject)


def _still_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
