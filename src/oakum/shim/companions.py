# SPDX-License-Identifier: Apache-2.0
"""Processes beside a pod's containers, as its supervisor sees them: children of the keeper, which end with the pod.

Each is forked when it is asked for, and outlives supervisors: its process id and what it was told are handed over. What
they do is `relay` and `nameserver`; a pod that needs neither has none.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

from oakum.errors import SystemFailure
from oakum.linux import process
from oakum.shim import cleanup
from oakum.shim.handover import Parcel
from oakum.shim.pod import Pod

# What one does with the values and descriptors that it was given, until it is killed.
Life = Callable[[list[Any], Sequence[int]], int]
NONE: Final[tuple[int, list[Any], Any]] = (0, [], None)


class Companion:
    """At most one process of a kind; `note` is its name among the pod's processes, "oakum NOTE ID" its title."""

    def __init__(self, note: str, life: Life, pod: Pod, sandbox_id: str, keeper_pid: int) -> None:
        self._note = note
        self._life = life
        self._pod = pod
        self._sandbox_id = sandbox_id
        self._keeper_pid = keeper_pid
        self._pid, self._told, self._mark = NONE

    @property
    def mark(self) -> Any:
        """What came with the values that the process has; None without a process."""
        return self._mark

    def replace(self, values: list[Any], fds: Sequence[int], mark: Any = None) -> bool:
        """Have a process with these values and descriptors and no other, none without values; False when it is there.

        A process that has the same values is left as it is. The descriptors stay the caller's. Raises SystemFailure.
        """
        if values == self._told and (not values or self._pod.expects(self._pid)):
            return False
        self.end()
        if values:
            self._pid = int(self._fork(values, tuple(fds)))
            self._pod.expect(self._pid, self._ended)
            cleanup.note_process(self._pod.directory, self._note, self._pid, "")
        self._told, self._mark = values, mark
        return True

    def _fork(self, values: list[Any], fds: tuple[int, ...]) -> int:
        try:
            pid = self._pod.fork()
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "fork", self._note) from failure
        if pid == 0:
            process.run_and_exit(lambda: self._live(values, fds))
        return pid

    def _live(self, values: list[Any], fds: tuple[int, ...]) -> int:
        """In the fork."""
        process.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != self._keeper_pid:
            return 1
        signal.set_wakeup_fd(-1)
        process.close_except({2, *fds})
        process.handle_signal(signal.SIGTERM, process.SIGNAL_DEFAULT)
        name = f"oakum {self._note}"
        process.set_name(name)
        process.set_title(f"{name} {self._sandbox_id}")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return self._life(values, fds)

    def _ended(self, status: int) -> None:
        # Not by us, or nobody would be told: whoever asks next has it made anew.
        os.write(2, f"{self._note}: ended with {os.waitstatus_to_exitcode(status)}\n".encode())
        self._forget()

    def _forget(self) -> None:
        cleanup.forget_process(self._pod.directory, self._note)
        self._pid, self._told, self._mark = NONE

    def end(self) -> None:
        """End it."""
        if self._pid and self._pod.expects(self._pid):
            # Waited for: while it has its sockets the kernel gives it new connections, which would be lost.
            cleanup.end_noted(self._pod.directory, self._note)
            self._pod.release(self._pid)
            self._forget()

    # -- from one supervisor to the next ------------------------------------------------------------------------

    def pack(self, parcel: Parcel) -> list[Any]:
        """Plain values for the next supervisor."""
        if self._pid and self._pod.expects(self._pid):
            parcel.expect(self._pid)
            return [self._pid, self._told, self._mark]
        return list(NONE)

    def unpack(self, values: list[Any]) -> None:
        """Have what another supervisor had."""
        self._pid, self._told, self._mark = values
        if self._pid:
            self._pod.expect(self._pid, self._ended)
