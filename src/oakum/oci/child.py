# SPDX-License-Identifier: Apache-2.0
"""A process of a container as the process that made it sees it: what it reports, what it is told, how it is ended.

What it does meanwhile is `init` or `execution`. Whoever waits here is single-threaded, and the child's reaper.
"""

from __future__ import annotations

import os
import time

from oakum.errors import DeadlineExceeded, FailedPrecondition, SystemFailure, from_dict
from oakum.linux import control, pids
from oakum.linux import process as proc
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING, NamedTuple, signal
from oakum.oci.wire import Channel

if TYPE_CHECKING:
    from typing import Any


class Status(NamedTuple):
    """What a child has reported.

    `stage` is "mounted" (its root is complete, waiting for `hooked`), "created" (ready, waiting for `start`) or "running"
    (execve has happened).
    """

    stage: str
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    console_fd: Fd | None = None


class ContainerProcess:
    """A child on its way to execve, and then the process itself. Owns `pidfd` and the channel; see `close`."""

    def __init__(
        self, pid: int, pidfd: Fd, channel: Channel, warnings: tuple[str, ...] = (), *, created: bool = False
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._channel = channel
        self.warnings = warnings
        self._created = created

    @property
    def status_fd(self) -> int:
        """Poll it for reading, then call `read_status`."""
        return self._channel.fileno()

    def read_status(self) -> Status | None:
        """What the child has reported since the last call; None: nothing yet. Never blocks.

        Raises:
            CommandNotRunnable: the command cannot be executed.
            OakumError: whatever failed in the child, as it said it.
            FailedPrecondition: the child died without a word.
        """
        try:
            message = self._channel.receive(wait=False)
        except BlockingIOError:
            return None
        if message is None:
            if self._created:
                return Status("running")
            raise FailedPrecondition(
                "set up container process",
                f"pid {self.pid}",
                "it ended before it was ready",
                hint="was it killed, or out of memory?",
            )
        if message.kind == "error":
            raise from_dict(message.body["error"])
        if message.kind == "mounted":
            return Status("mounted")
        body = message.body
        self._created = True
        return Status(
            "created",
            int(body["uid"]),
            int(body["gid"]),
            tuple(body["groups"]),
            (*self.warnings, *body["warnings"]),
            message.fds[0] if message.fds else None,
        )

    def wait_status(self, timeout_s: float = 30.0) -> Status:
        """`read_status`, waiting for it. Raises DeadlineExceeded and what `read_status` raises."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.read_status()
            if status is not None:
                return status
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                raise DeadlineExceeded(
                    "set up container process", f"pid {self.pid}", f"no word after {timeout_s} s"
                )
            control.wait_for({self.status_fd: control.READABLE}, left_ms)

    def hooked(self, state: dict[str, Any]) -> None:
        """Let a mounted process go on; `state` is for the hooks it runs itself. Raises FailedPrecondition."""
        if not self._channel.send("hooked", {"state": state}):
            raise FailedPrecondition("set up container process", f"pid {self.pid}", "its process has ended")

    def start(self) -> None:
        """Let a created process go on to execve. Raises FailedPrecondition when it is gone."""
        if not self._channel.send("start"):
            raise FailedPrecondition("start container", f"pid {self.pid}", "its process has ended")

    def signal(self, number: int) -> None:
        """Signal the process; one that has ended is fine. Raises SystemFailure."""
        try:
            pids.pidfd_send_signal(self.pidfd.fileno(), number)
        except ProcessLookupError:
            return
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "signal", f"pid {self.pid}") from failure

    def give_away(self) -> tuple[int, int]:
        """The descriptors of process and channel, for `adopt` in another process; the caller owns them now."""
        return self.pidfd.steal(), self._channel.steal()

    @classmethod
    def adopt(
        cls, pid: int, pidfd: Fd, channel_fd: Fd, warnings: tuple[str, ...] = (), *, created: bool = False
    ) -> ContainerProcess:
        """The same process, made by a worker with `for_parent`; takes the descriptors over.

        `created`: it has said already that it is.
        """
        return cls(pid, pidfd, Channel.adopt(channel_fd), warnings, created=created)

    def abort(self) -> None:
        """Kill it, reap it if it is our child, and close what this object owns."""
        self.signal(signal.SIGKILL)
        proc.has_ended(self.pidfd, wait=True)
        try:
            os.waitid(os.P_PIDFD, self.pidfd.fileno(), os.WEXITED)
        except ChildProcessError:
            pass  # reaped already, or another process does it
        self.close()

    def close(self) -> None:
        """Give up the descriptors; the process goes on. Closing before `start` ends a created process."""
        self._channel.close()
        self.pidfd.close()


class Held:
    """Descriptors that the child inherits and the parent closes after clone."""

    def __init__(self) -> None:
        self._fds: list[Fd] = []

    def keep(self, fd: Fd) -> int:
        """Own it from now on; its number."""
        self._fds.append(fd)
        return fd.fileno()

    def take(self, *fds: Fd) -> None:
        """Own them from now on."""
        self._fds += fds

    def close(self) -> None:
        """Close them all."""
        for fd in self._fds:
            fd.close()
