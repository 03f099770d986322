# SPDX-License-Identifier: Apache-2.0
"""Containers that are to run again after their end: the pause before it, and the command that does it.

    end ──► policy ──► pause, a timer ──► command, a child of the keeper ──► it deletes the container, and starts it anew
                         ▲                   │
                         └── longer each time ┴── it failed, or was killed

The policy's arithmetic is `model.restarts`. Starting is the engine's, which has the locks, rows and scopes that it takes:
the command is the engine's, and decides once more by what stands in its database. Containers that asked for none of
this cost nothing. While a pause or a command lasts, the supervisor stays.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Final

from oakum.linux import process
from oakum.model.exits import ExitRecord
from oakum.model.restarts import next_delay_s, parse_policy, wants_restart
from oakum.shim.container import Container
from oakum.shim.loop import Loop, Timer, report
from oakum.shim.pod import Pod
from oakum.shim.requests import RestartRequest

# After a command that failed: as long as a policy waits at most.
_FIRST_REPEAT_S: Final = 1.0
_LONGEST_REPEAT_S: Final = 60.0


class Restarts:
    """Those of one sandbox."""

    def __init__(self, loop: Loop, pod: Pod) -> None:
        self._loop = loop
        self._pod = pod
        self._waiting: dict[str, Timer] = {}
        self._commands: set[int] = set()

    @property
    def at_rest(self) -> bool:
        """Whether no command runs; pauses are timers of the loop."""
        return not self._commands

    def watch(self, container: Container) -> None:
        """Begin to look after a container that has not ended, if it asks for it."""
        if container.request.restart is not None:
            container.when_over(partial(self._ended, container))

    def change(self, container: Container, restart: RestartRequest) -> None:
        """Have another policy from now on."""
        watched = container.request.restart is not None
        container.change_restart(restart)
        if not watched:
            self.watch(container)

    def forget(self, container_id: str) -> None:
        """It is gone: wait no more."""
        timer = self._waiting.pop(container_id, None)
        if timer is not None:
            timer.cancel()

    def _ended(self, container: Container, record: ExitRecord) -> None:
        restart = container.request.restart
        # What was told to stop, and what never ran, stays as it is.
        if restart is None or container.was_stopped or not record.started_at_ns:
            return
        if wants_restart(parse_policy(restart.policy), record.exit_code, restart.times):
            ran_s = (record.finished_at_ns - record.started_at_ns) / 1e9
            self._wait(container.container_id, restart, next_delay_s(restart.delay_s, ran_s), _FIRST_REPEAT_S)

    def _wait(self, container_id: str, restart: RestartRequest, delay_s: float, repeat_s: float) -> None:
        if container_id not in self._waiting:
            self._waiting[container_id] = self._loop.later(
                delay_s, partial(self._launch, container_id, restart, repeat_s)
            )

    def _launch(self, container_id: str, restart: RestartRequest, repeat_s: float) -> None:
        self._waiting.pop(container_id, None)
        try:
            pid = self._pod.fork()
        except OSError:
            report()
            self._repeat(container_id, restart, repeat_s)
            return
        if pid == 0:
            process.run_and_exit(lambda: _execute(restart.command))
        self._commands.add(pid)
        self._pod.expect(pid, partial(self._command_ended, container_id, restart, repeat_s, pid))

    def _command_ended(
        self, container_id: str, restart: RestartRequest, repeat_s: float, pid: int, status: int
    ) -> None:
        self._commands.discard(pid)
        if status:
            code = os.waitstatus_to_exitcode(status)
            os.write(2, f"restart of {container_id}: its command ended with {code}\n".encode())
            self._repeat(container_id, restart, repeat_s)

    def _repeat(self, container_id: str, restart: RestartRequest, repeat_s: float) -> None:
        self._wait(container_id, restart, repeat_s, min(2 * repeat_s, _LONGEST_REPEAT_S))


def _execute(command: tuple[str, ...]) -> int:
    signal.set_wakeup_fd(-1)
    process.close_except({2})
    process.reset_signals()
    os.setsid()
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError:
        report()
    return 1
