# SPDX-License-Identifier: Apache-2.0
"""What the containers of one shim share: its directory, its namespaces, and the book of its children.

A process that a worker made may be reaped before the shim has been told of it: such ends are kept until claimed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from oakum.linux.fd import Fd
from oakum.shim.loop import Loop
from oakum.shim.requests import ContainerRequest, ExecRequest
from oakum.shim.worker import Result

Ended = Callable[[int], None]
Stdio = tuple[int, int, int]


class Makers(NamedTuple):
    """What a worker does to make a container and an exec: `makers`, but in the rehearsal."""

    container: Callable[[ContainerRequest, Pod, Stdio | None, int], Result]
    exec: Callable[[ExecRequest, ContainerRequest, int, Stdio | None, str], Result]


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

    def expect(self, pid: int, ended: Ended) -> None:
        """Call `ended` once with the wait status of a child that was forked just now."""
        self._children[pid] = ended

    def adopt(self, loop: Loop, pid: int, pidfd: Fd, ended: Ended) -> None:
        """The same for a child that a worker made, which may have been reaped already."""
        try:
            os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            status = self._unclaimed.pop(pid, 0)
            loop.later(0, lambda: ended(status))
            return
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
