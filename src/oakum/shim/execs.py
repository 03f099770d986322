# SPDX-License-Identifier: Apache-2.0
"""Further processes in a container: started, waited for, and killed with everything they have started.

Each exec is born in a child cgroup of its own in the v2 tree, with no controllers enabled: a process may be beside a
controller-less child also under cgroup v2's rule against inner processes. Membership survives a double fork, so
the kill finds the whole tree. On a host without any v2 tree the kill follows parents to children instead.
Owns exec ids and records (kept in memory until fetched); the descriptors of an exec belong to its caller.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Sequence
from typing import Final, Protocol

from oakum.errors import FailedPrecondition, InvalidArgument, OakumError, SystemFailure
from oakum.linux import pids, terminal
from oakum.linux.fd import Fd
from oakum.model.exits import ExitRecord
from oakum.oci.cgroups import Cgroup
from oakum.oci.cgroups.layout import Hierarchy
from oakum.oci.child import ContainerProcess
from oakum.shim import exits
from oakum.shim.connection import Connection
from oakum.shim.handover import State
from oakum.shim.loop import Loop
from oakum.shim.pod import Place, Pod
from oakum.shim.requests import ContainerRequest, ExecRequest
from oakum.shim.waiting import Over
from oakum.shim.worker import Result, Worker

# Records of ended execs that nobody has fetched; the oldest go first.
_KEPT_ENDED: Final = 256
_KILL_ROUNDS: Final = 64


class Owner(Protocol):
    """The container, as its execs see it."""

    @property
    def container_id(self) -> str:
        """Its id."""
        ...

    @property
    def cgroup(self) -> Cgroup | None:
        """Its cgroup."""
        ...

    @property
    def request(self) -> ContainerRequest:
        """What the engine asked for."""
        ...

    def running_pid(self, event: str) -> int:
        """Its first process. Raises FailedPrecondition."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether its first process has, even if we have not been told yet."""
        ...

    def check(self, event: str) -> None:
        """Raise FailedPrecondition unless the event may happen."""
        ...


class ExecGroup:
    """The cgroup of one exec in the v2 tree."""

    __slots__ = ("_directory", "path")

    def __init__(self, parent: Cgroup, tree: Hierarchy, exec_id: str) -> None:
        self.path = f"{parent.path}/oakum-exec-{exec_id}"
        self._directory = tree.mountpoint + self.path

    def kill(self) -> None:
        """SIGKILL everything in it, also what forks meanwhile. Raises SystemFailure."""
        try:
            fd = os.open(f"{self._directory}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # before Linux 5.14, or removed
            self._kill_each()
            return
        try:
            os.write(fd, b"1")
        except OSError as failure:
            if failure.errno != errno.ENODEV:  # removed meanwhile
                raise SystemFailure.from_os_error(failure, "kill", self._directory) from failure
        finally:
            os.close(fd)

    def _kill_each(self) -> None:
        killed: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            new = set(self._members()) - killed
            if not new:
                return
            killed |= new
            for pid in new:
                pids.kill_if_there(pid)

    def _members(self) -> list[int]:
        try:
            with open(f"{self._directory}/cgroup.procs", encoding="ascii") as file:
                return [int(line) for line in file]
        except FileNotFoundError:
            return []

    def remove(self) -> bool:
        """Remove it; False while something lives in it."""
        try:
            os.rmdir(self._directory)
        except FileNotFoundError:
            return True
        except OSError as failure:
            if failure.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise SystemFailure.from_os_error(failure, "remove cgroup", self._directory) from failure
        return True


def _kill_tree(pid: int) -> None:
    """SIGKILL a process and all that descend from it; each is stopped first, so that none forks away meanwhile."""
    try:
        os.kill(pid, signal.SIGSTOP)
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        _kill_tree(child)
    pids.kill_if_there(pid)


def _left_its_namespaces(error: OakumError) -> bool:
    """Whether an exec found the container's first process on its way out: it has no namespaces any more."""
    return isinstance(error, SystemFailure) and error.operation == "setns" and error.errno == errno.ESRCH


class _Exec:
    __slots__ = ("child", "ended", "fetched", "group", "over", "started_at_ns")

    def __init__(self, exec_id: str, group: ExecGroup | None) -> None:
        self.child: ContainerProcess | None = None
        self.group = group
        self.over = Over(f"exec {exec_id}")
        self.started_at_ns = 0
        self.ended = False
        self.fetched = False


class Execs:
    """All execs of one container."""

    def __init__(self, loop: Loop, owner: Owner, pod: Pod) -> None:
        self._loop = loop
        self._owner = owner
        self._pod = pod
        self._execs: dict[str, _Exec] = {}

    def has(self, exec_id: str) -> bool:
        """Whether this container has that exec."""
        return exec_id in self._execs

    def start(self, request: ExecRequest, stdio: Sequence[int], connection: Connection) -> None:
        """Start a process; the connection gets its id, and the terminal's master side if it has one.

        Raises:
            FailedPrecondition: the container does not run.
            InvalidArgument: the request is wrong.
        """
        self._owner.check("exec")
        if stdio and (len(stdio) != 3 or request.tty):
            raise InvalidArgument(
                "exec", f"{len(stdio)} descriptors", "three are taken, and none with a terminal"
            )
        exec_id = os.urandom(16).hex()
        group = self._group(exec_id)
        container_pid = self._owner.running_pid("exec")
        container = self._owner.request
        numbers = (stdio[0], stdio[1], stdio[2]) if stdio else None
        place = Place(self._pod, container, container_pid, group.path if group else "")
        entry = _Exec(exec_id, group)
        starting = _Starting(
            self,
            exec_id,
            self._owner,
            loop=self._loop,
            pod=self._pod,
            entry=entry,
            request=request,
            connection=connection,
        )
        self._execs[exec_id] = entry
        connection.when_gone = starting.give_up
        try:
            Worker(
                self._loop,
                self._pod,
                lambda: place.pod.makers.exec(request, place, numbers),
                keep=numbers or (),
                done=starting.made,
                failed=starting.fail,
            )
        except OakumError:
            del self._execs[exec_id]
            raise

    def _group(self, exec_id: str) -> ExecGroup | None:
        parent = self._owner.cgroup
        tree = parent.layout.unified if parent is not None else None
        return ExecGroup(parent, tree, exec_id) if parent is not None and tree is not None else None

    @property
    def at_rest(self) -> bool:
        """Whether all of them have ended."""
        return all(entry.ended for entry in self._execs.values())

    def pack(self) -> list[tuple[str, bool, State | None, bool]]:
        """What is kept of those that have ended. Only when `at_rest`."""
        return [
            (
                exec_id,
                entry.group is not None,
                entry.over.record and entry.over.record.to_dict(),
                entry.fetched,
            )
            for exec_id, entry in self._execs.items()
        ]

    def unpack(self, packed: list[tuple[str, bool, State | None, bool]]) -> None:
        """Know those that another supervisor knew."""
        for exec_id, has_group, record, fetched in packed:
            self._execs[exec_id] = entry = _Exec(exec_id, self._group(exec_id) if has_group else None)
            entry.over.record = ExitRecord.from_dict(record) if record is not None else None
            entry.fetched = fetched
            entry.ended = True

    def over(self, exec_id: str) -> Over:
        """The exec's end, to wait for."""
        return self._execs[exec_id].over

    def fetched(self, exec_id: str) -> None:
        """A client has the record: it need not be kept."""
        entry = self._execs.get(exec_id)
        if entry is not None:
            entry.fetched = True
            self._forget_if_over(exec_id)

    def kill(self, exec_id: str, number: int) -> None:
        """SIGKILL: the whole tree, also when the process itself has ended; else a signal to the process only."""
        entry = self._execs[exec_id]
        if number == signal.SIGKILL and entry.group is not None:
            entry.group.kill()
        if entry.child is not None and not entry.ended:
            if number == signal.SIGKILL and entry.group is None:
                _kill_tree(entry.child.pid)
            entry.child.signal(number)
        self._forget_if_over(exec_id)

    def container_ended(self) -> None:
        """The container's cgroup has been killed; without one, the execs have to be ended here."""
        for entry in self._execs.values():
            if not entry.ended and entry.child is not None:
                entry.child.signal(signal.SIGKILL)

    def forget_all(self) -> None:
        """The container is gone."""
        for exec_id in [key for key, entry in self._execs.items() if entry.ended]:
            del self._execs[exec_id]

    def ended(self, exec_id: str, wait_status: int) -> None:
        """The process has been reaped."""
        entry = self._execs[exec_id]
        entry.ended = True
        assert entry.child is not None
        entry.child.close()
        record = exits.from_wait_status(
            wait_status,
            oom_killed=False,
            started_at_ns=entry.started_at_ns,
            finished_at_ns=time.time_ns(),
        )
        entry.over.tell(record)
        over = [key for key, value in self._execs.items() if value.ended]
        # Those also whose last processes were still on their way out when they were looked at before.
        for key in over:
            self._forget_if_over(key)
        for key in over[:-_KEPT_ENDED]:
            self._execs.pop(key, None)

    def failed(self, exec_id: str) -> None:
        """It never ran, or nobody knows of it: nobody will ask for its record."""
        entry = self._execs[exec_id]
        entry.fetched = True
        if entry.child is None:
            entry.ended = True
        self._forget_if_over(exec_id)

    def _forget_if_over(self, exec_id: str) -> None:
        entry = self._execs.get(exec_id)
        if entry is None or not entry.ended:
            return
        # What it left running in the background can be killed as long as it is known.
        if entry.group is not None and entry.group.remove():
            entry.group = None
        if entry.fetched and entry.group is None:
            del self._execs[exec_id]


class _Starting:
    """An exec between the request and its execve, and the client that waits for that."""

    def __init__(
        self,
        execs: Execs,
        exec_id: str,
        owner: Owner,
        *,
        loop: Loop,
        pod: Pod,
        entry: _Exec,
        request: ExecRequest,
        connection: Connection,
    ) -> None:
        self._execs = execs
        self._loop = loop
        self._pod = pod
        self._exec_id = exec_id
        self._owner = owner
        self._entry = entry
        self._request = request
        self._connection = connection
        self._console_fd = -1
        self._done = False

    def made(self, result: Result) -> None:
        """The worker has made the process, a child of this shim."""
        pid = int(result.values["pid"])
        child = ContainerProcess.adopt(
            pid, Fd(result.fds[0]), Fd(result.fds[1]), tuple(result.values["warnings"])
        )
        self._entry.child = child
        if self._done:  # the client has gone meanwhile
            self._kill()
        else:
            self._loop.watch(child.status_fd, read=self._read_status)
        self._pod.adopt(self._loop, pid, child.pidfd, self._process_ended)

    def fail(self, error: OakumError) -> None:
        """It could not be made, or could not be executed."""
        if not self._done:
            if _left_its_namespaces(error) or self._owner.has_ended:
                # Its end is told in a moment; that, and not where it hit the exec, is what went wrong.
                error = FailedPrecondition("exec", f"exec {self._exec_id}", "the container has just ended")
            self._connection.fail(error)
            self._finish()
        self._kill()
        self._execs.failed(self._exec_id)

    def give_up(self) -> None:
        """The client has gone before it was told: nobody knows of this process."""
        if not self._done:
            self._finish()
            if self._entry.child is not None:
                self._kill()
                self._execs.failed(self._exec_id)

    def _read_status(self) -> None:
        """The child has something to say: who it is, then that it runs, or why it cannot."""
        child = self._entry.child
        while not self._done and child is not None:
            try:
                status = child.read_status()
            except OakumError as error:
                self.fail(error)
                return
            if status is None:
                return
            if status.console_fd is not None:
                self._take_console(status.console_fd.steal())
            if status.stage == "running":
                self._succeed()

    def _take_console(self, console_fd: int) -> None:
        self._console_fd = console_fd
        if self._request.rows and self._request.columns:
            terminal.set_size(console_fd, self._request.rows, self._request.columns)

    def _process_ended(self, wait_status: int) -> None:
        # What it said last may still be unread.
        self._read_status()
        if not self._done:
            self.fail(SystemFailure("exec", f"exec {self._exec_id}", "the process ended before it could run"))
        elif self._entry.started_at_ns == 0:
            self._entry.fetched = True
        self._execs.ended(self._exec_id, wait_status)

    def _succeed(self) -> None:
        assert self._entry.child is not None
        self._entry.started_at_ns = time.time_ns()
        console = [self._console_fd] if self._console_fd >= 0 else []
        self._connection.answer({"exec_id": self._exec_id, "pid": self._entry.child.pid}, console)
        self._finish()

    def _kill(self) -> None:
        if self._entry.group is not None:
            self._entry.group.kill()
        if self._entry.child is not None and not self._entry.child.pidfd.closed:
            self._entry.child.signal(signal.SIGKILL)

    def _finish(self) -> None:
        self._done = True
        if self._entry.child is not None:
            self._loop.watch(self._entry.child.status_fd)
        if self._console_fd >= 0:
            os.close(self._console_fd)
            self._console_fd = -1
