# SPDX-License-Identifier: Apache-2.0
"""The process of a shim that stays: parent and reaper of all in the pod, and writer of its logs while nothing happens.

    zygote ──fork──► keeper ──fork, as soon as there is something to do──► supervisor: makes, serves, decides
                      │  ▲                                                     │
                      │  └── descriptors and state, as soon as nothing is ─────┤
                      └───── (pid, wait status) of every child that ends ─────►┘

An interpreter makes every page its own that it touches, so the process that stays runs a handful of functions and has
0.6 MB of its own, where a supervisor has 2 MB while it lives. Either of the two holds the containers' descriptors,
never both: with a supervisor the keeper only reaps. What the supervisor does is made of the same code in every life:
it is told what the one before left (`handover`).

A supervisor that ends in any other way than by handing over ends the shim, as if the shim itself had been killed;
the death of the keeper kills the supervisor.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

from oakum.linux import process, sockets
from oakum.shim import supervisor
from oakum.shim.handover import END, HANDED_OVER, Left, receive
from oakum.shim.logs import Log
from oakum.shim.loop import ignore_signal, report
from oakum.shim.makers import MAKERS
from oakum.shim.pod import Makers
from oakum.shim.requests import SandboxRequest

QUIET_S: Final = 0.25

_READ_BYTES: Final = 16 << 10
_RETRY_S: Final = 0.1
_FIRST_TRIES: Final = 20
_SIGCHLD: Final = int(signal.SIGCHLD)
_IN: Final = select.POLLIN

# What a supervisor does, with its end of the link and what its predecessor left. The first one says the sandbox's id as
# soon as that is made. It returns how it has ended: `handover.OVER`, `HANDED_OVER`, or anything else.
Life = Callable[[sockets.Socket, Left | None], int]


def run(
    sock: sockets.Socket, request: SandboxRequest, makers: Makers = MAKERS, quiet_s: float = QUIET_S
) -> int:
    """Be the shim of a sandbox until it is shut down; `sock` is who asked for it."""
    settle(title_of(request.sandbox_id))

    client_fd = sock.detach()

    def life(link: sockets.Socket, left: Left | None) -> int:
        if left is None:
            return supervisor.begin(sockets.adopt(client_fd), link, request, makers, quiet_s)
        return supervisor.resume(left, link, makers, quiet_s)

    return Keeper(life, [client_fd]).run()


def title_of(sandbox_id: str) -> str:
    """The title of a sandbox's shim."""
    return "oakum shim " + sandbox_id


def settle(title: str) -> None:
    """Be a session of our own, with a name, and the parent of what the sandbox's processes leave behind."""
    os.setsid()
    process.set_name("oakum shim")
    process.set_title(title)
    process.set_child_subreaper(True)


class Keeper:
    """The parent of one sandbox's processes; `given_fds` are for the first supervisor.

    `made` is called with the sandbox's id when that one has made it.
    """

    def __init__(self, life: Life, given_fds: list[int], made: Callable[[str], None] | None = None) -> None:
        self._life = life
        self._tell_made = made
        self._link, self._supervisors_link = sockets.packet_pair()
        self._signal_fd, self._signal_write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._supervisor_pid = 0
        self._made = False
        self._left: Left | None = None
        self._given_fds = given_fds
        self._outputs: dict[int, tuple[Log, str]] = {}
        self._poll = select.poll()
        self._exit_status: int | None = None

    def run(self) -> int:
        """Keep the sandbox until it is no more; the exit status."""
        signal.set_wakeup_fd(self._signal_write_fd, warn_on_full_buffer=False)
        process.handle_signal(_SIGCHLD, ignore_signal)
        for _ in range(_FIRST_TRIES):
            self._wake()
            if self._supervisor_pid:
                break
        else:
            self._exit_status = 1  # nothing is made yet, and nothing would ever call for a supervisor again
        self._poll.register(self._link.fileno(), _IN)
        while self._exit_status is None:
            poll = self._poll
            for fd, _ in poll.poll():
                self._ready(fd)
                if self._poll is not poll:  # who watches what has changed
                    break
        self._let_go_of_signals()
        return self._exit_status

    def _let_go_of_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._signal_fd)
        os.close(self._signal_write_fd)

    def _ready(self, fd: int) -> None:
        if fd == self._signal_fd:
            os.read(fd, 4096)
            self._reap()
        elif fd == self._link.fileno():
            self._hear_made()
        elif fd not in self._outputs or not self._pump(fd):
            self._wake()

    # -- children -----------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._supervisor_pid:
                self._take_over(status)
            elif self._left is None or pid in self._left.expected:
                # It waits in the link until a supervisor reads it, this one or the next.
                self._link.send(END.pack(pid, status))

    def _hear_made(self) -> None:
        """The first supervisor has made the sandbox; after that a supervisor says nothing until it leaves."""
        sandbox_id, _ = sockets.receive_with_fds(self._link)
        self._made = True
        self._poll.unregister(self._link.fileno())
        if self._tell_made is not None:
            self._tell_made(sandbox_id.decode())

    def _take_over(self, status: int) -> None:
        """The supervisor has ended."""
        self._supervisor_pid = 0
        code = os.waitstatus_to_exitcode(status)
        if code != HANDED_OVER:
            self._exit_status = code
            return
        if not self._made:  # both at once
            self._hear_made()
        self._poll = poll = select.poll()
        self._left = left = receive(self._link)
        self._given_fds = left.fds
        os.dup2(left.stderr_fd, 2)
        poll.register(self._signal_fd, _IN)
        poll.register(self._supervisors_link.fileno(), _IN)
        poll.register(left.listener_fd, _IN)
        for fd, stream, log in left.outputs:
            self._outputs[fd] = log, stream
            poll.register(fd, _IN)

    # -- what happens -------------------------------------------------------------------------------------------

    def _pump(self, fd: int) -> bool:
        """Log what a container says; False when it has something else to tell: its end, or an error."""
        log, stream = self._outputs[fd]
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data:
            log.write(stream, data)
        return len(data) > 0

    def _wake(self) -> None:
        """Fork a supervisor, which has everything from then on."""
        keeper_pid = os.getpid()
        try:
            pid = process.fork()
        except OSError:
            report()
            time.sleep(_RETRY_S)
            return
        if pid == 0:
            process.run_and_exit(lambda: self._supervise(keeper_pid))
        self._supervisor_pid = pid
        sockets.close_all(self._given_fds)
        self._given_fds = []
        self._left = None
        self._outputs.clear()
        self._poll = select.poll()
        self._poll.register(self._signal_fd, _IN)

    def _supervise(self, keeper_pid: int) -> int:
        """In the fork."""
        process.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != keeper_pid:
            return 1
        self._let_go_of_signals()
        self._link.close()
        return self._life(self._supervisors_link, self._left)
