# SPDX-License-Identifier: Apache-2.0
"""Who works on what: one flock per object, which the kernel drops when its holder dies.

A row in a passing phase whose lock is free therefore belongs to a dead process. A lock file goes away with
its object; whoever opened it before that notices that its file is no longer the one at the path, and opens
the path anew. Does not own what is done under a lock.

Source: flock(2). Two descriptors of one process exclude each other too, so threads are covered.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from oakum.engine.storage import storing
from oakum.errors import DeadlineExceeded

_POLL_S = 0.002
_POLL_MAX_S = 0.05


def nobody_holds(path: str) -> bool:
    """Whether nobody has the lock of a file now. Raises OSError: it is not there, or cannot be opened."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class ObjectLock:
    """A held lock of one object. `waited` says whether somebody else had it first."""

    __slots__ = ("_fd", "_path", "waited")

    def __init__(self, path: str, fd: int, *, waited: bool) -> None:
        self._path = path
        self._fd = fd
        self.waited = waited

    def release(self, *, gone: bool = False) -> None:
        """Let it go; with `gone` the object no longer exists and its lock file goes too."""
        if self._fd < 0:
            return
        if gone:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass  # the state directory was cleared under us; the lock is as gone as it should be
        os.close(self._fd)
        self._fd = -1


class Locks:
    """The locks of one state directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with storing("open lock", path):
            try:
                return os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                return os.open(path, flags, 0o600)

    def try_acquire(self, name: str) -> ObjectLock | None:
        """The lock, or None when somebody has it."""
        path = self._path(name)
        while True:
            fd = self._open(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
                    return None
                raise
            if _is_current(fd, path):
                return ObjectLock(path, fd, waited=False)
            os.close(fd)

    def acquire(self, name: str, *, timeout_s: float | None = None) -> ObjectLock:
        """The lock, waited for.

        Raises:
            DeadlineExceeded: somebody kept it for longer than `timeout_s`.
        """
        lock = self.try_acquire(name)
        if lock is not None:
            return lock
        if timeout_s is not None:
            return self._poll(name, timeout_s)
        path = self._path(name)
        while True:
            fd = self._open(path)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_current(fd, path):
                return ObjectLock(path, fd, waited=True)
            os.close(fd)

    def _poll(self, name: str, timeout_s: float) -> ObjectLock:
        """Wait with a deadline: flock has none of its own, and signals belong to the program above us."""
        deadline = time.monotonic() + timeout_s
        pause_s = _POLL_S
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause_s, left))
            pause_s = min(pause_s * 2, _POLL_MAX_S)
            lock = self.try_acquire(name)
            if lock is not None:
                lock.waited = True
                return lock
        raise DeadlineExceeded(
            "lock",
            name[:12],
            f"another call has worked on it for over {timeout_s:g} s",
            hint="try again later",
        )

    def is_free(self, name: str) -> bool:
        """Whether nobody holds the lock now. Leaves no file behind."""
        try:
            return nobody_holds(self._path(name))
        except FileNotFoundError:
            return True

    @contextmanager
    def holding(self, name: str, *, timeout_s: float | None = None) -> Generator[ObjectLock]:
        """The lock for the time of a block; the block may `release(gone=True)` it early."""
        lock = self.acquire(name, timeout_s=timeout_s)
        try:
            yield lock
        finally:
            lock.release()

    def names(self) -> list[str]:
        """The names of all lock files."""
        try:
            return sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []

    def forget(self, name: str) -> bool:
        """Remove a lock file that nobody holds; whether it is gone."""
        lock = self.try_acquire(name)
        if lock is None:
            return False
        lock.release(gone=True)
        return True


def _is_current(fd: int, path: str) -> bool:
    """Whether `path` still leads to the file behind `fd`: its last holder may have removed it."""
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)


class SharedLock:
    """A read-write lock on one file: many bring content in, or one removes some.

    Re-entrant for the shared side within one thread, so that an import may pull.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()

    @contextmanager
    def shared(self) -> Generator[None]:
        """Keep removers out."""
        depth = getattr(self._local, "depth", 0)
        if depth:
            self._local.depth = depth + 1
            try:
                yield
            finally:
                self._local.depth = depth
            return
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            self._local.depth = 1
            yield
        finally:
            self._local.depth = 0
            os.close(fd)

    @contextmanager
    def exclusive(self) -> Generator[bool]:
        """Whether everybody else could be kept out; does not wait."""
        fd = self._open()
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with storing("open lock", self._path):
            try:
                return os.open(self._path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self._path), mode=0o711, exist_ok=True)
                return os.open(self._path, flags, 0o600)
