# SPDX-License-Identifier: Apache-2.0
"""The files that Docker's `local` driver writes for one container, read in their order over rotations.

    container.log.2 ─► container.log.1 ─► container.log      renamed at each rotation, the oldest removed

A file is known by its inode and its first record, so a rename changes nothing; one that we have open stays readable
when it is removed, with its container or without. Owns the descriptor; reads nothing but Docker's own files.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from oakum.docker.records import first_time_ns
from oakum.errors import SystemFailure

DIRECTORY: Final = "local-logs"
_NAME: Final = "container.log"
MAX_FILES: Final = 4
_BLOCK_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 64


class FileKey(NamedTuple):
    """Which file it is, whatever its name is now. `first_ns` is 0 while it is empty."""

    device: int
    inode: int
    first_ns: int

    def same(self, other: FileKey) -> bool:
        """Whether it is the same file: an inode may be used again, but then begins with another record."""
        both = self.first_ns and other.first_ns
        return self[:2] == other[:2] and (not both or self.first_ns == other.first_ns)


class Source:
    """Docker's output of one container from a place on."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = -1
        self.offset = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a file to read."""
        return self._fd >= 0

    def open(self, key: FileKey | None, offset: int) -> bool | None:
        """Go to a place, or to the beginning; None: there is no file yet; False: the place is gone, and output with it.

        Raises:
            SystemFailure: Docker's files cannot be read.
        """
        self.close()
        found = self._files()
        if not found:
            return None
        chosen = next((fd for fd in found if key is not None and _key(fd).same(key)), None)
        known = chosen is not None or key is None
        self._take(found, found[-1] if chosen is None else chosen)
        self.offset = offset if chosen is not None else 0
        return known

    def key(self) -> FileKey:
        """Which file is being read."""
        return _key(self._fd)

    def read(self) -> bytes:
        """What is there now; empty at the end for now. Raises SystemFailure."""
        try:
            return os.pread(self._fd, _BLOCK_BYTES, self.offset)
        except OSError as error:
            raise SystemFailure.from_os_error(error, "read Docker's log", self._directory) from error

    @property
    def superseded(self) -> bool:
        """Whether Docker writes to another file now, and to this one no more."""
        ours = os.fstat(self._fd)
        try:
            now = os.stat(f"{self._directory}/{_NAME}")
        except OSError:
            return False  # removed with its container, or between two names: looked at again when it is there
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)

    def next_file(self) -> bool | None:
        """Go on with the file after this one; None: there is none; False: files between the two are gone."""
        ours = os.fstat(self._fd)
        found = self._files()  # the newest first
        names = [(s.st_dev, s.st_ino) for s in map(os.fstat, found)]
        here = (ours.st_dev, ours.st_ino)
        if not found or names[0] == here:
            _close(found)
            return None
        if here in names:
            chosen, known = found[names.index(here) - 1], True
        else:
            chosen, known = found[-1], False
        self.close()
        self._take(found, chosen)
        self.offset = 0
        return known

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _files(self) -> list[int]:
        """All files there are, the newest first; each once, whatever is renamed meanwhile."""
        found: list[int] = []
        seen: set[tuple[int, int]] = set()
        # A rotation while we look moves files to where we look later: none is missed.
        for suffix in ("", *(f".{n}" for n in range(1, MAX_FILES + 1))):
            try:
                fd = os.open(f"{self._directory}/{_NAME}{suffix}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _close(found)
                raise SystemFailure.from_os_error(error, "read Docker's log", self._directory) from error
            facts = os.fstat(fd)
            if (facts.st_dev, facts.st_ino) in seen:
                os.close(fd)
                continue
            seen.add((facts.st_dev, facts.st_ino))
            found.append(fd)
        return found

    def _take(self, found: list[int], chosen: int) -> None:
        _close([fd for fd in found if fd != chosen])
        self._fd = chosen


def _key(fd: int) -> FileKey:
    facts = os.fstat(fd)
    return FileKey(facts.st_dev, facts.st_ino, first_time_ns(os.pread(fd, _HEAD_BYTES, 0)))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
