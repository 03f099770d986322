# SPDX-License-Identifier: Apache-2.0
"""The logs of all our containers: one thread that copies what Docker has from its files into those of the CRI form.

    container ─► dockerd ─► container.log (kept by Docker, bounded) ─► tail ─► log_path (ours: rotation, removal)

Docker's files are read, not its API: that goes on while dockerd is away or hangs, needs no connection and no thread for
each container, survives the removal of a container, and has places that can be returned to exactly after a kill -9.
inotify says when to look. Owns the thread and the tails; `tail` and `position` own exactness.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

from oakum.docker.client import DockerClient
from oakum.docker.source import DIRECTORY, MAX_FILES
from oakum.docker.tail import Tail
from oakum.errors import DeadlineExceeded, FailedPrecondition, OakumError, SystemFailure
from oakum.linux.inotify import (
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    Inotify,
)

log = logging.getLogger(__name__)

_MAX_SIZE: Final = "64m"
_RETRY_S: Final = 1.0
_DRAIN_S: Final = 30.0


class LogKeeper:
    """Keeps the logs of the containers that it was told to `follow`; positions lie below `containers_directory`."""

    def __init__(self, client: DockerClient, containers_directory: str) -> None:
        self._client = client
        self._directory = containers_directory
        self._guard = threading.Lock()
        self._tails: dict[str, Tail] = {}
        self._new: list[Tail] = []
        self._gone: list[str] = []
        self._over = False
        self._thread: threading.Thread | None = None
        self._watched: dict[int, Tail] = {}
        self._watches: dict[str, tuple[int, bool]] = {}
        self._unwatched: dict[str, Tail] = {}
        try:
            self._inotify = Inotify()
        except OSError as error:
            raise SystemFailure.from_os_error(error, "watch Docker's logs", containers_directory) from error
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @staticmethod
    def log_config() -> dict[str, Any]:
        """What Docker is to do with a container's output: keep every byte, up to a bound, where we find it."""
        options = {"max-size": _MAX_SIZE, "max-file": str(MAX_FILES), "compress": "false", "mode": "blocking"}
        return {"Type": "local", "Config": options}

    def start(self) -> None:
        """Begin to copy."""
        self._thread = threading.Thread(target=self._run, name="docker-logs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; what is not copied yet is copied when we are there again."""
        self._over = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        with self._guard:
            tails, self._tails = list(self._tails.values()), {}
        for tail in tails:
            with tail.lock:
                tail.release()
        self._inotify.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def recover(self, logs: Iterable[tuple[str, str]]) -> None:
        """Follow these (container, log path), and forget what others left behind."""
        known = dict(logs)
        for container_id, log_path in known.items():
            try:
                self.follow(container_id, log_path)
            except OakumError as error:
                log.warning(
                    "cannot follow a log", extra={"fields": {"id": container_id, "error": str(error)}}
                )

    def follow(self, container_id: str, log_path: str) -> None:
        """Copy a container's output from now on, or from where it was left. Raises SystemFailure, InvalidArgument."""
        if not log_path:
            return
        # asked of Docker, which may hang, before anybody is made to wait for us
        root = self._client.root_directory()
        with self._guard:
            if container_id in self._tails:
                return
            directory = f"{root}/containers/{container_id}/{DIRECTORY}"
            tail = Tail(container_id, directory, log_path, f"{self._directory}/{container_id}/log")
            with tail.lock:
                tail.prepare()
            self._tails[container_id] = tail
            self._new.append(tail)
        self._wake()

    def drained(self, container_id: str, timeout_s: float = _DRAIN_S) -> None:
        """Return when all that Docker has of an ended container is in its log. Raises DeadlineExceeded, SystemFailure."""
        tail = self._tails.get(container_id)
        if tail is None:
            return
        if not tail.lock.acquire(timeout=timeout_s):
            raise DeadlineExceeded("bring over the log of", container_id[:12], "it is not written yet")
        try:
            tail.drain()
        finally:
            tail.lock.release()

    def reopen(self, container_id: str) -> None:
        """Go on in a new file, after a rotation. Raises FailedPrecondition, SystemFailure, InvalidArgument."""
        tail = self._tails.get(container_id)
        if tail is None:
            raise FailedPrecondition("reopen log", container_id[:12], "it has none")
        with tail.lock:
            tail.reopen()
        self._wake()

    def forget(self, container_id: str) -> None:
        """Follow it no longer, once all that is left is in the log; succeeds for what is not followed."""
        with self._guard:
            tail = self._tails.pop(container_id, None)
            self._gone.append(container_id)
        if tail is not None:
            with tail.lock:
                tail.forget()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_write, b"x")

    # the thread

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._inotify.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        waiting: dict[str, Tail] = {}
        blocked: dict[str, Tail] = {}
        look_at_s = 0.0
        while not self._over:
            now_s = time.monotonic()
            due = bool(blocked or self._unwatched)
            if due and now_s >= look_at_s:  # also while others have so much to say that nothing is ever quiet
                waiting.update(blocked)
                waiting.update(self._unwatched)
                look_at_s = now_s + _RETRY_S
            timeout_s = 0.0 if waiting else look_at_s - now_s if due else None
            ready = {fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            closing = self._notices(waiting)
            self._watch_new(waiting)
            again: dict[str, Tail] = {}
            for tail in waiting.values():
                self._pump(tail, again, blocked, ended=tail.id in closing)
            waiting = again

    def _pump(self, tail: Tail, again: dict[str, Tail], blocked: dict[str, Tail], *, ended: bool) -> None:
        blocked.pop(tail.id, None)
        with tail.lock:
            try:
                if tail.pump():
                    again[tail.id] = tail
                elif tail.blocked:
                    blocked[tail.id] = tail
                elif ended:
                    tail.release()
            except (OakumError, OSError) as error:
                # the edge of the thread: one log must not hold the others
                blocked[tail.id] = tail
                if tail.blocked != str(error):
                    tail.blocked = str(error)
                    log.warning("cannot copy a log", extra={"fields": {"id": tail.id, "error": str(error)}})

    def _notices(self, waiting: dict[str, Tail]) -> set[str]:
        """Add what may have output; those of which Docker has closed a file."""
        closing: set[str] = set()
        for notice in self._inotify.read():
            if notice.mask & IN_Q_OVERFLOW:
                waiting.update(self._tails)
                continue
            tail = self._watched.get(notice.watch)
            if tail is None:
                continue
            waiting[tail.id] = tail
            closing.discard(tail.id)
            if notice.mask & IN_IGNORED:
                del self._watched[notice.watch]
                self._watches.pop(tail.id, None)
                closing.add(tail.id)
            elif notice.mask & IN_CLOSE_WRITE:
                closing.add(tail.id)
            elif notice.name == DIRECTORY and not self._watches[tail.id][1]:
                self._watch(tail, waiting)
        return closing

    def _watch_new(self, waiting: dict[str, Tail]) -> None:
        with self._guard:
            new, self._new = self._new, []
            gone, self._gone = self._gone, []
        for tail in new:
            self._watch(tail, waiting)
        for container_id in gone:
            self._unwatched.pop(container_id, None)
            watch, _ = self._watches.pop(container_id, (-1, False))
            if self._watched.pop(watch, None) is not None:
                self._inotify.remove(watch)

    def _watch(self, tail: Tail, waiting: dict[str, Tail]) -> None:
        """Watch Docker's directory for the log; before the first start only the one above it is there."""
        before, _ = self._watches.pop(tail.id, (-1, False))
        if self._watched.pop(before, None) is not None:
            self._inotify.remove(before)
        inner = IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE
        while tail.id in self._tails:
            if self._add(tail, tail.directory, inner, is_inner=True):
                break
            if not self._add(tail, os.path.dirname(tail.directory), IN_CREATE, is_inner=False):
                break  # it is gone
            if not os.path.exists(tail.directory):
                break
            # made between the two looks
            watch, _ = self._watches.pop(tail.id)
            del self._watched[watch]
            self._inotify.remove(watch)
        waiting[tail.id] = tail

    def _add(self, tail: Tail, path: str, mask: int, *, is_inner: bool) -> bool:
        try:
            watch = self._inotify.add(path, mask)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            hint = "raise the sysctl fs.inotify.max_user_watches"
            facts = {"id": tail.id, "error": error.strerror, "hint": hint}
            log.warning("a log is looked at once a second", extra={"fields": facts})
            self._unwatched[tail.id] = tail
            return True
        self._watched[watch] = tail
        self._watches[tail.id] = (watch, is_inner)
        return True
