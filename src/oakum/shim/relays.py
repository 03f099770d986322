# SPDX-License-Identifier: Apache-2.0
"""The relay of a pod as its supervisor sees it: a child of the keeper, forked when asked for and ended with the pod.

It outlives supervisors: its process id and its routes are handed over. What it does is `relay`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from oakum.errors import InvalidArgument, SystemFailure
from oakum.linux import process
from oakum.shim import cleanup, relay
from oakum.shim.handover import Parcel
from oakum.shim.pod import Pod

_NOTE: Final = "relay"


class Relays:
    """At most one relay for all routes of a pod."""

    def __init__(self, pod: Pod, sandbox_id: str, keeper_pid: int) -> None:
        self._pod = pod
        self._sandbox_id = sandbox_id
        self._keeper_pid = keeper_pid
        self._pid = 0
        self._routes: list[Any] = []

    def replace(self, routes: list[Any], fds: Sequence[int]) -> bool:
        """Have these routes relayed from these sockets and nothing else; False when they are already.

        `routes` are lists as `relay.Route` makes them; the descriptors stay the caller's. Raises SystemFailure.
        """
        if routes == self._routes and (not routes or self._pod.expects(self._pid)):
            return False
        wanted = [relay.Route.from_list(values) for values in routes]
        if len(wanted) != len(fds):
            raise InvalidArgument("relay", f"{len(wanted)} routes", f"{len(fds)} sockets came with them")
        self.end()
        if wanted:
            self._pid = int(self._fork(wanted, tuple(fds)))
            self._pod.expect(self._pid, self._ended)
            cleanup.note_process(self._pod.directory, _NOTE, self._pid, "")
        self._routes = routes
        return True

    def _fork(self, routes: list[relay.Route], fds: tuple[int, ...]) -> int:
        try:
            pid = self._pod.fork()
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "fork", "relay") from failure
        if pid == 0:
            process.run_and_exit(lambda: relay.run(routes, fds, self._keeper_pid, self._sandbox_id))
        return pid

    def _ended(self, status: int) -> None:
        # Not by us, or nobody would be told: whoever asks next has it made anew.
        os.write(2, f"relay: ended with {os.waitstatus_to_exitcode(status)}\n".encode())
        self._forget()

    def _forget(self) -> None:
        cleanup.forget_process(self._pod.directory, _NOTE)
        self._pid = 0
        self._routes = []

    def end(self) -> None:
        """End it."""
        if self._pid and self._pod.expects(self._pid):
            # Waited for: while it has its sockets the kernel gives it new connections, which would be lost.
            cleanup.end_noted(self._pod.directory, _NOTE)
            self._pod.release(self._pid)
            self._forget()

    # -- from one supervisor to the next ------------------------------------------------------------------------

    def pack(self, parcel: Parcel) -> list[Any]:
        """Plain values for the next supervisor."""
        if self._pid and self._pod.expects(self._pid):
            parcel.expect(self._pid)
            return [self._pid, self._routes]
        return [0, []]

    def unpack(self, values: list[Any]) -> None:
        """Have what another supervisor had."""
        self._pid, self._routes = values
        if self._pid:
            self._pod.expect(self._pid, self._ended)
