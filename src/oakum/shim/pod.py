# SPDX-License-Identifier: Apache-2.0
"""What the containers of one shim share: its directory, its namespaces, and the book of its children.

A process that a worker made may be reaped before the shim has been told of it: such ends are kept until claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from oakum.linux import process
from oakum.linux.fd import Fd
from oakum.shim.loop import Loop
from oakum.shim.requests import ContainerRequest, ExecRequest
from oakum.shim.worker import Result

Ended = Callable[[int], None]
Stdio = tuple[int, int, int]


class Place(NamedTuple):
    """Where an exec goes: a container by its first process; `unified_path` is its own group in the v2 tree ("": none)."""

    pod: Pod
    container: ContainerRequest
    container_pid: int
    unified_path: str


class Makers(NamedTuple):
    """How a worker is made, and what it does to make a container and an exec: `makers`, but in the rehearsal.

    `at_once` makes a container without a worker; None: it takes one.
    """

    fork: Callable[[], int]

    at_once: Callable[[ContainerRequest, Pod, Stdio | None, int], Result | None]
    container: Callable[[ContainerRequest, Pod, Stdio | None, int], Result]
    exec: Callable[[ExecRequest, Place, Stdio | None], Result]


# Ends of orphans, which nobody will claim; the oldest are dropped.
_KEPT: Final = 256


class Pod:
    """One sandbox. `namespaces` are the types that were created and pinned."""

    def __init__(self, directory: str, namespaces: tuple[str, ...], makers: Makers) -> None:
        self.directory = directory
        self.namespaces = namespaces
        self.makers = makers
        self._children: dict[int, Ended] = {}
        self._unclaimed: dict[int, int] = {}

    def fork(self) -> int:
        """A worker: its process id, 0 in the worker."""
        return self.makers.fork()

    def expect(self, pid: int, ended: Ended) -> None:
        """Call `ended` once with the wait status of a child that was forked just now."""
        self._children[pid] = ended

    def adopt(self, loop: Loop, pid: int, pidfd: Fd, ended: Ended) -> None:
        """The same for a child that a worker made, of whose end we may have been told already."""
        status = self._unclaimed.pop(pid, None)
        # Else it was another process, which had the same number before.
        if status is not None and process.has_ended(pidfd):
            loop.later(0, lambda: ended(status))
        else:
            self._children[pid] = ended

    def release(self, pid: int) -> None:
        """Somebody else reaps this child."""
        self._children.pop(pid, None)

    def expects(self, pid: int) -> bool:
        """Whether this child has not ended yet."""
        return pid in self._children

    def reaped(self, pid: int, status: int) -> None:
        """A child has been reaped: tell whom it concerns."""
        ended = self._children.pop(pid, None)
        if ended is not None:
            ended(status)
            return
        self._unclaimed.pop(pid, None)
        self._unclaimed[pid] = status
        if len(self._unclaimed) > _KEPT:
            del self._unclaimed[next(iter(self._unclaimed))]
