# SPDX-License-Identifier: Apache-2.0
"""Further processes in a container: started, waited for, and killed with everything they have started.

Each exec is born in a child cgroup of its own in the v2 tree, with no controllers enabled: a process may be beside a
controller-less child also under cgroup v2's rule against inner processes. Membership survives a double fork, so
the kill finds the whole tree. On a host without any v2 tree the kill follows parents to children instead.
Owns exec ids and records (kept in memory until fetched); the descriptors of an exec belong to its caller.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import signal
import struct
import termios
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

from oakum.errors import InvalidArgument, OakumError, SystemFailure
from oakum.oci.cgroups.group import Cgroup
from oakum.oci.cgroups.layout import Hierarchy
from oakum.oci.container import ExecProcess, spawn_exec
from oakum.oci.container import ExecRequest as OciExecRequest
from oakum.oci.spec import Spec, parse_process
from oakum.shim import exits
from oakum.shim.connection import Connection
from oakum.shim.loop import Loop
from oakum.shim.pod import Pod
from oakum.shim.requests import ContainerRequest, ExecRequest
from oakum.shim.waiting import Over

# Records of ended execs that nobody has fetched; the oldest go first.
_KEPT_ENDED: Final = 256
_KILL_ROUNDS: Final = 64
# Members of the runtime spec's process object that an exec takes from the container when it has none.
_INHERITED: Final = (
    "user",
    "env",
    "cwd",
    "capabilities",
    "rlimits",
    "noNewPrivileges",
    "apparmorProfile",
    "selinuxLabel",
    "oomScoreAdj",
)


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
    def spec(self) -> Spec:
        """Its config.json."""
        ...

    @property
    def request(self) -> ContainerRequest:
        """What the engine asked for."""
        ...

    def running_pid(self, event: str) -> int:
        """Its first process. Raises FailedPrecondition."""
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

    def create(self) -> None:
        """Make it. Raises SystemFailure."""
        try:
            os.mkdir(self._directory)
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "make cgroup", self._directory) from failure

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
                _kill_if_there(pid)

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
    _kill_if_there(pid)


def _kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class _Exec:
    __slots__ = ("child", "ended", "fetched", "group", "over", "started_at_ns")

    def __init__(self, exec_id: str, child: ExecProcess, group: ExecGroup | None) -> None:
        self.child = child
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
        group = self._make_group(exec_id)
        null_fd = -1
        try:
            if not stdio and not request.tty:
                null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
                stdio = (null_fd, null_fd, null_fd)
            child = spawn_exec(self._oci_request(request, stdio, group))
        except OakumError:
            if group is not None:
                group.remove()
            raise
        finally:
            if null_fd >= 0:
                os.close(null_fd)
        entry = _Exec(exec_id, child, group)
        self._execs[exec_id] = entry
        starting = _Starting(self, exec_id, entry, request, connection)
        self._pod.reaped[child.pid] = lambda status: self._ended(exec_id, status, starting)
        connection.when_gone = starting.give_up
        self._loop.watch(child.status_fd, read=starting.read_status)

    def _make_group(self, exec_id: str) -> ExecGroup | None:
        parent = self._owner.cgroup
        tree = parent.layout.unified if parent is not None else None
        if parent is None or tree is None:
            return None
        group = ExecGroup(parent, tree, exec_id)
        group.create()
        return group

    def _oci_request(
        self, request: ExecRequest, stdio: Sequence[int], group: ExecGroup | None
    ) -> OciExecRequest:
        own: dict[str, Any] = dict(self._owner.spec.get("process", {}))
        merged = {key: own[key] for key in _INHERITED if key in own}
        merged.update(request.process)
        merged["terminal"] = request.tty
        bpf = request.seccomp_bpf or self._owner.request.seccomp_bpf
        return OciExecRequest(
            container_pid=self._owner.running_pid("exec"),
            process=parse_process(merged),
            stdio=(stdio[0], stdio[1], stdio[2]) if stdio else None,
            cgroup_path=self._owner.cgroup.path if self._owner.cgroup else "",
            unified_path=group.path if group else "",
            user=request.user,
            extra_groups=request.extra_groups,
            strict_groups=request.strict_groups,
            seccomp_bpf=base64.b64decode(bpf),
        )

    def waiters(self, exec_id: str) -> Over:
        """The exec's end, to wait for; once told, the record is forgotten."""
        entry = self._execs[exec_id]

        def fetched(_record: exits.ExitRecord) -> None:
            entry.fetched = True
            self._forget_if_over(exec_id)

        # The one who waits adds itself right after this, and is told first when it is over already.
        self._loop.later(0, lambda: entry.over.add(fetched))
        return entry.over

    def kill(self, exec_id: str, number: int) -> None:
        """SIGKILL: the whole tree, also when the process itself has ended; else a signal to the process only."""
        entry = self._execs[exec_id]
        if number == signal.SIGKILL and entry.group is not None:
            entry.group.kill()
        elif number == signal.SIGKILL and not entry.ended:
            _kill_tree(entry.child.pid)
        if not entry.ended:
            entry.child.signal(number)
        self._forget_if_over(exec_id)

    def container_ended(self) -> None:
        """The container's cgroup has been killed; without one, the execs have to be ended here."""
        for entry in self._execs.values():
            if not entry.ended:
                entry.child.signal(signal.SIGKILL)

    def forget_all(self) -> None:
        """The container is gone."""
        for exec_id in list(self._execs):
            entry = self._execs[exec_id]
            if entry.ended:
                del self._execs[exec_id]

    def _ended(self, exec_id: str, wait_status: int, starting: _Starting) -> None:
        entry = self._execs.get(exec_id)
        if entry is None:
            return
        starting.process_ended()
        entry.ended = True
        self._loop.watch(entry.child.status_fd)
        entry.child.close()
        record = exits.from_wait_status(
            wait_status,
            oom_killed=False,
            started_at_ns=entry.started_at_ns,
            finished_at_ns=time.time_ns(),
        )
        entry.over.tell(record)
        self._forget_if_over(exec_id)
        ended = [key for key, value in self._execs.items() if value.ended]
        for key in ended[:-_KEPT_ENDED]:
            del self._execs[key]

    def unwatch(self, status_fd: int) -> None:
        """Nothing more is expected there."""
        self._loop.watch(status_fd)

    def failed(self, exec_id: str) -> None:
        """It never ran: nobody will ask for its record."""
        self._execs[exec_id].fetched = True

    def _forget_if_over(self, exec_id: str) -> None:
        entry = self._execs.get(exec_id)
        if entry is None or not entry.ended or not entry.fetched:
            return
        # What it left running in the background can be killed as long as it is known.
        if entry.group is None or entry.group.remove():
            del self._execs[exec_id]


class _Starting:
    """An exec between its fork and its execve, and the client that waits for that."""

    def __init__(
        self, execs: Execs, exec_id: str, entry: _Exec, request: ExecRequest, connection: Connection
    ) -> None:
        self._execs = execs
        self._exec_id = exec_id
        self._entry = entry
        self._request = request
        self._connection = connection
        self._console_fd = -1
        self._done = False

    def read_status(self) -> None:
        """The child has something to say: who it is, then that it runs, or why it cannot."""
        while not self._done:
            try:
                status = self._entry.child.read_status()
            except OakumError as error:
                self._fail(error)
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
            size = struct.pack("4H", self._request.rows, self._request.columns, 0, 0)
            fcntl.ioctl(console_fd, termios.TIOCSWINSZ, size)

    def process_ended(self) -> None:
        """It has been reaped; what it said last may still be unread."""
        self.read_status()
        if not self._done:
            self._fail(
                SystemFailure("exec", f"exec {self._exec_id}", "the process ended before it could run")
            )

    def give_up(self) -> None:
        """The client has gone before it was told: nobody knows of this process."""
        if not self._done:
            self._finish()
            self._execs.failed(self._exec_id)
            if self._entry.group is not None:
                self._entry.group.kill()
            self._entry.child.signal(signal.SIGKILL)

    def _succeed(self) -> None:
        self._entry.started_at_ns = time.time_ns()
        console = [self._console_fd] if self._console_fd >= 0 else []
        self._connection.answer({"exec_id": self._exec_id, "pid": self._entry.child.pid}, console)
        self._finish()

    def _fail(self, error: OakumError) -> None:
        self._connection.fail(error)
        self._finish()
        self._execs.failed(self._exec_id)
        self._entry.child.signal(signal.SIGKILL)

    def _finish(self) -> None:
        self._done = True
        self._execs.unwatch(self._entry.child.status_fd)
        if self._console_fd >= 0:
            os.close(self._console_fd)
            self._console_fd = -1
