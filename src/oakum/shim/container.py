# SPDX-License-Identifier: Apache-2.0
"""One container: created, started, signalled, stopped, ended, recorded, forgotten, as `lifecycle` allows.

Owns the container's cgroup, its first process and the order of things at its end: kill what is left in the
cgroup, read what is left in the pipes, write the exit record, only then tell anyone. Nothing here waits;
what takes time has a callback.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from oakum.errors import FailedPrecondition, Internal, OakumError, SystemFailure
from oakum.linux import pids, process
from oakum.linux.fd import Fd
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.child import ContainerProcess, Status
from oakum.oci.spec import parse_resources
from oakum.shim import cleanup, exits, lifecycle
from oakum.shim.execs import Execs
from oakum.shim.handover import Parcel, State
from oakum.shim.logs import Log
from oakum.shim.loop import Loop, Timer, report
from oakum.shim.pod import Pod
from oakum.shim.requests import ContainerRequest, ContainerState, Created, RestartRequest
from oakum.shim.stdio import Stdio
from oakum.shim.waiting import Over, Told
from oakum.shim.worker import Result, Worker

Failed = Callable[[OakumError], None]

# States in which a container may stay as it is for long.
_RESTS: Final = frozenset((lifecycle.CREATED, lifecycle.RUNNING, lifecycle.PAUSED, lifecycle.EXITED))

# How long the removal of a cgroup is tried again while its last processes die.
_REMOVE_TRIES_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Container:
    """One container of the shim. `gone` is called once, when nothing of it is left."""

    def __init__(
        self,
        loop: Loop,
        request: ContainerRequest,
        pod: Pod,
        gone: Callable[[Container], None],
        *,
        target_pid: int = 0,
    ) -> None:
        self.container_id = request.container_id
        self._loop = loop
        self._request = request
        self._pod = pod
        self._gone = gone
        self._target_pid = target_pid
        self._state = lifecycle.CREATING
        self._over = Over(f"container {request.container_id}")
        self._pid = 0
        self._cgroup: Cgroup | None = None
        self._stdio: Stdio | None = None
        self._init: ContainerProcess | None = None
        self._created: Callable[[Created], None] | None = None
        self._started: Callable[[int], None] | None = None
        self._failed: Failed | None = None
        self._start_error: OakumError | None = None
        self._started_at_ns = 0
        self._stop_timer: Timer | None = None
        self._stop_due_s = 0.0
        self.was_stopped = False
        """Whether it was told to stop, or deleted, before its end."""
        self._when_deleted: list[Callable[[], None]] = []
        self._cgroup_gone = False
        self._wait_status: int | None = None
        self._cancelled: OakumError | None = None
        self._goes_on = False
        self._worker: Worker | None = None
        self.execs = Execs(loop, self, pod)

    # -- what others ask ----------------------------------------------------------------------------------------

    @property
    def cgroup(self) -> Cgroup | None:
        """The container's cgroup; None when the spec names none."""
        return self._cgroup

    @property
    def request(self) -> ContainerRequest:
        """What the engine asked for."""
        return self._request

    def running_pid(self, event: str) -> int:
        """The first process's id. Raises FailedPrecondition unless the container runs."""
        if self._state not in (lifecycle.RUNNING, lifecycle.PAUSED) or self._init is None:
            raise FailedPrecondition(event, f"container {self.container_id}", f"it is {self._state}")
        return self._pid

    @property
    def has_ended(self) -> bool:
        """Whether the first process has, even if we have not been told yet."""
        return self._init is None or self._init.pidfd.closed or process.has_ended(self._init.pidfd)

    def check(self, event: str) -> None:
        """Raise FailedPrecondition unless `event` of `lifecycle.TABLE` may happen now."""
        lifecycle.follow(event, self._state, self.container_id)

    def describe(self) -> ContainerState:
        """The container as clients see it."""
        return ContainerState(
            self.container_id,
            self._pid,
            self._state,
            self._stdio.log_error if self._stdio else "",
            self._stdio.log_lost_bytes if self._stdio else 0,
        )

    def streams(self, event: str) -> Stdio:
        """The container's streams, for an event that needs them. Raises FailedPrecondition."""
        self.check(event)
        assert self._stdio is not None
        return self._stdio

    def waiters(self, event: str) -> Over:
        """The container's end, to wait for. Raises FailedPrecondition."""
        self.check(event)
        return self._over

    def when_over(self, told: Told) -> None:
        """Tell of its end, unless it has been recorded already."""
        if self._over.record is None:
            self._over.add(told)

    def change_restart(self, restart: RestartRequest) -> None:
        """Have the request say something else of what follows the end."""
        self._request = self._request._replace(restart=restart)

    # -- from one supervisor to the next ------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way; timers and clients are not looked at."""
        if self._state not in _RESTS or self._when_deleted or self._stdio is None:
            return False
        if self._state == lifecycle.EXITED and not self._cgroup_gone:
            return False
        return self._stdio.at_rest and self.execs.at_rest

    def pack(self, parcel: Parcel) -> State:
        """Put everything into the parcel. Only when `at_rest`."""
        assert self._stdio is not None
        channel = -1
        pidfd = -1
        if self._init is not None and self._state != lifecycle.EXITED:
            parcel.expect(self._pid)
            pidfd = parcel.add(self._init.pidfd.fileno())
            channel = parcel.add(self._init.status_fd)
        record = self._over.record
        return {
            "request": self._request.to_dict(),
            "state": self._state,
            "started_at_ns": self._started_at_ns,
            "pid": self._pid,
            "pidfd": pidfd,
            "channel": channel,
            "cgroup_path": self._cgroup.path if self._cgroup is not None else "",
            "cgroup_gone": self._cgroup_gone,
            "record": record.to_dict() if record is not None else None,
            "stdio": self._stdio.pack(parcel),
            "execs": self.execs.pack(),
        }

    def unpack(self, state: State, fds: Sequence[int], log: Log) -> None:
        """Go on where another supervisor was; takes the descriptors over."""
        self._state = state["state"]
        self._started_at_ns = state["started_at_ns"]
        self._pid = pid = state["pid"]
        if state["cgroup_path"]:
            self._cgroup = Cgroup(detect_layout(), state["cgroup_path"])
        self._cgroup_gone = state["cgroup_gone"]
        if state["record"] is not None:
            self._over.record = exits.ExitRecord.from_dict(state["record"])
        self._stdio = self._make_stdio(log)
        self._stdio.unpack(state["stdio"], fds)
        self.execs.unpack(state["execs"])
        if state["pidfd"] >= 0:
            self._init = ContainerProcess.adopt(
                pid, Fd(fds[int(state["pidfd"])]), Fd(fds[int(state["channel"])]), created=True
            )
            self._pod.expect(pid, self._ended)

    # -- creating -----------------------------------------------------------------------------------------------

    def create(self, created: Callable[[Created], None], failed: Failed, *, goes_on: bool = False) -> None:
        """Begin to create; exactly one of the two is called, now or later.

        `goes_on`: `created` will start it, so that its first process need not wait for that.
        """
        self._created, self._failed = created, failed
        # A terminal has to be ours before anything is said on it; a foreign runtime is asked by a command.
        self._goes_on = goes_on and not self._request.tty and not self._request.runtime
        try:
            self._begin()
        except OakumError as error:
            self._fail_creation(error)
        except OSError as failure:
            self._fail_creation(
                SystemFailure.from_os_error(failure, "create", f"container {self.container_id}")
            )
        except Exception as failure:  # noqa: BLE001 - a bug must reach the client, and may not leave a container half-made
            report()
            self._fail_creation(Internal("create", f"container {self.container_id}", repr(failure)))

    def _begin(self) -> None:
        request = self._request
        self._stdio = self._make_stdio(Log(request.log_path))
        ends = self._stdio.open_pipes()
        numbers = ends.numbers() if ends else None
        try:
            made = self._pod.makers.at_once(request, self._pod, numbers, self._target_pid)
            if made is None:
                self._worker = Worker(
                    self._loop,
                    self._pod,
                    lambda: self._pod.makers.container(request, self._pod, numbers, self._target_pid),
                    keep=numbers or (),
                    done=self._made,
                    failed=self._fail_creation,
                )
        finally:
            if ends:
                ends.close()
        if made is not None:
            self._made(made)

    def _make_stdio(self, log: Log) -> Stdio:
        request = self._request
        return Stdio(
            self._loop,
            self.container_id,
            log,
            tty=request.tty,
            stdin=request.stdin,
            stdin_once=request.stdin_once,
        )

    def _made(self, result: Result) -> None:
        """The first process is there, a child of this shim."""
        self._pid = pid = int(result.values["pid"])
        self._init = ContainerProcess.adopt(
            pid, Fd(result.fds[0]), Fd(result.fds[1]), tuple(result.values["warnings"])
        )
        if path := str(result.values["cgroup_path"]):
            self._cgroup = Cgroup(detect_layout(), path)
        if self._cancelled is not None:
            self._fail_creation(self._cancelled)
            return
        if self._goes_on:
            try:
                self._init.start()
            except FailedPrecondition:  # it has ended, and said why
                pass
        self._loop.watch(self._init.status_fd, read=self._read_status)
        self._pod.adopt(self._loop, pid, self._init.pidfd, self._ended)

    def _read_status(self) -> None:
        """The first process has something to say: it is created, it failed, or it has executed."""
        init = self._init
        assert init is not None
        try:
            status = init.read_status()
        except OakumError as error:
            self._loop.watch(init.status_fd)
            self._init_failed(error)
            return
        if self._state == lifecycle.CREATING:
            if status is None:
                return
            self._loop.watch(init.status_fd)
            self._note_created(status)
        elif self._state == lifecycle.STARTING and status is not None:
            self._loop.watch(init.status_fd)
            self._executed()

    def _note_created(self, status: Status) -> None:
        assert self._init is not None
        assert self._stdio is not None
        if status.console_fd is not None:
            self._stdio.take_console(status.console_fd)
        self._state = lifecycle.follow("created", self._state, self.container_id)
        created, self._created, self._failed = self._created, None, None
        assert created is not None
        created(
            Created(
                self._init.pid,
                status.uid,
                status.gid,
                status.groups,
                status.warnings,
            )
        )

    def _init_failed(self, error: OakumError) -> None:
        if self._state == lifecycle.CREATING:
            self._fail_creation(error)
            return
        # Start: the record comes when the process has ended, which it is about to; make sure.
        self._start_error = error
        self._signal(signal.SIGKILL)

    def _fail_creation(self, error: OakumError) -> None:
        self._state = lifecycle.follow("failed", self._state, self.container_id)
        if self._init is not None:
            self._loop.watch(self._init.status_fd)
            self._pod.release(self._init.pid)
            self._init.abort()
        if self._stdio is not None:
            self._stdio.close()
        failed, self._failed, self._created = self._failed, None, None
        self._remove_cgroup()
        if failed is not None:
            failed(error)

    # -- starting -----------------------------------------------------------------------------------------------

    def start(self, started: Callable[[int], None], failed: Failed) -> None:
        """Begin to start; exactly one of the two is called later. Raises FailedPrecondition."""
        self._state = lifecycle.follow("start", self._state, self.container_id)
        self._started, self._failed = started, failed
        try:
            self._execute()
        except OakumError as error:
            self._init_failed(error)

    def _execute(self) -> None:
        """Let the first process go on; `_executed` or `_init_failed` follows. Raises FailedPrecondition."""
        assert self._init is not None
        if not self._goes_on:
            self._init.start()
        self._loop.watch(self._init.status_fd, read=self._read_status)

    def _executed(self) -> None:
        self._started_at_ns = time.time_ns()
        self._state = lifecycle.follow("executed", self._state, self.container_id)
        started, self._started, self._failed = self._started, None, None
        if started is not None:
            started(self._started_at_ns)

    # -- while it runs ------------------------------------------------------------------------------------------

    def kill(self, number: int, *, whole_cgroup: bool) -> None:
        """Signal the first process, or all. Raises FailedPrecondition, SystemFailure."""
        self.check("signal")
        if whole_cgroup and self._cgroup is not None:
            if number == signal.SIGKILL:
                self._cgroup.kill_all()
                self._signal(signal.SIGKILL)
            else:
                for pid in self._cgroup.processes():
                    pids.kill_if_there(pid, number)
        else:
            self._signal(number)
        if number == signal.SIGKILL and self._state == lifecycle.PAUSED:
            self.resume()  # what is frozen does not die on cgroup v1

    def _signal(self, number: int) -> None:
        assert self._init is not None
        self._init.signal(number)

    def stop(self, number: int, grace_s: float) -> Over:
        """Signal, and after `grace_s` kill the whole cgroup; what to wait for. A second call joins the first.

        The earlier of two deadlines counts. Raises FailedPrecondition.
        """
        self.check("stop")
        if self._state in (lifecycle.ENDING, lifecycle.EXITED):
            return self._over
        self.was_stopped = True
        if self._state == lifecycle.PAUSED:
            self.resume()
        due_s = time.monotonic() + max(0.0, grace_s)
        if self._stop_timer is not None:
            if due_s < self._stop_due_s:
                self._stop_timer.cancel()
                self._arm_stop(due_s)
            return self._over
        if grace_s <= 0 or self._state != lifecycle.RUNNING:
            self._arm_stop(due_s)  # tries again should a process escape the first kill
            self._kill_everything()
        else:
            self._signal(number)
            self._arm_stop(due_s)
        return self._over

    def _arm_stop(self, due_s: float) -> None:
        self._stop_due_s = due_s
        self._stop_timer = self._loop.later(max(0.0, due_s - time.monotonic()), self._kill_everything)

    def _kill_everything(self) -> None:
        if self._state in (lifecycle.ENDING, lifecycle.EXITED, lifecycle.GONE):
            return
        if self._state == lifecycle.PAUSED:
            self.resume()
        self._signal(signal.SIGKILL)
        if self._cgroup is not None:
            self._cgroup.kill_all()

    def pause(self) -> None:
        """Freeze. Raises FailedPrecondition, DeadlineExceeded, SystemFailure."""
        after = lifecycle.follow("pause", self._state, self.container_id)
        self._need_cgroup("pause").freeze()
        self._state = after

    def resume(self) -> None:
        """Thaw. Raises FailedPrecondition, SystemFailure."""
        after = lifecycle.follow("resume", self._state, self.container_id)
        self._need_cgroup("resume").thaw()
        self._state = after

    def update(self, resources: dict[str, Any]) -> list[str]:
        """Change limits; warnings. Raises FailedPrecondition, InvalidArgument, SystemFailure."""
        self.check("update")
        return self._need_cgroup("update").apply(parse_resources(resources))

    def _need_cgroup(self, operation: str) -> Cgroup:
        if self._cgroup is None:
            raise FailedPrecondition(
                operation, f"container {self.container_id}", "it has no cgroup of its own"
            )
        return self._cgroup

    # -- the end ------------------------------------------------------------------------------------------------

    def _ended(self, wait_status: int) -> None:
        """The first process has been reaped."""
        self._wait_status = wait_status
        init = self._init
        assert init is not None
        for _ in (lifecycle.CREATING, lifecycle.STARTING):
            if self._state in (lifecycle.CREATING, lifecycle.STARTING) and self._start_error is None:
                # What it said last may still be unread.
                self._read_status()
        if self._state == lifecycle.GONE:
            return
        self._loop.watch(init.status_fd)
        if self._state == lifecycle.CREATING:
            self._fail_creation(self._died_early(wait_status))
            return
        if self._state == lifecycle.STARTING and self._start_error is None:
            self._start_error = self._died_early(wait_status)
        self._state = lifecycle.follow("ended", self._state, self.container_id)
        if self._stop_timer is not None:
            self._stop_timer.cancel()
        record = self._make_record(wait_status)
        self.execs.container_ended()
        assert self._stdio is not None
        self._stdio.drain(lambda: self._record(record))

    def _make_record(self, wait_status: int) -> exits.ExitRecord:
        finished_at_ns = time.time_ns()
        oom_killed = False
        if self._cgroup is not None:
            try:
                oom_killed = self._cgroup.oom_kills() > 0
                self._cgroup.kill_all()
            except OakumError:
                report()  # the end of the container is recorded all the same
        if self._start_error is not None:
            return exits.from_start_error(self._start_error, finished_at_ns)
        return exits.from_wait_status(
            wait_status,
            oom_killed=oom_killed,
            started_at_ns=self._started_at_ns,
            finished_at_ns=finished_at_ns,
        )

    def _died_early(self, wait_status: int) -> OakumError:
        code = os.waitstatus_to_exitcode(wait_status)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        hint = ""
        if self._cgroup is not None and self._cgroup.oom_kills():
            hint = "the memory limit is too small to start anything"
        return SystemFailure(
            "start", f"container {self.container_id}", f"its first process ended with {how}", hint=hint
        )

    def _record(self, record: exits.ExitRecord) -> None:
        try:
            exits.write(self._request.bundle, record)
        except SystemFailure as error:
            # Who waits must not wait for ever; what is lost is the answer after this shim's own end.
            report()
            record = record._replace(message=f"{record.message}; {error}".removeprefix("; "))
        self._state = lifecycle.follow("recorded", self._state, self.container_id)
        assert self._stdio is not None
        assert self._init is not None
        self._init.close()
        failed, self._failed, self._started = self._failed, None, None
        if failed is not None:
            failed(self._start_error or self._died_early(self._wait_status or 0))
        self._stdio.finish(record)
        self._over.tell(record)
        self._remove_cgroup()

    def delete(self, deleted: Callable[[], None]) -> None:
        """Forget the container, killed first if it runs; calls `deleted` when nothing is left."""
        self._when_deleted.append(deleted)
        if self._state == lifecycle.EXITED:
            self._forget_if_clean()
        elif self._state == lifecycle.CREATING:
            error = FailedPrecondition("create", f"container {self.container_id}", "it was deleted meanwhile")
            if self._init is None:
                self._cancelled = error  # as soon as the worker has handed the process over
            else:
                self._fail_creation(error)
        elif self._state == lifecycle.GONE:
            pass  # it could not be created, and goes with its cgroup
        elif self._state != lifecycle.ENDING:
            self.stop(signal.SIGKILL, 0.0)
            self._over.add(lambda _record: self._forget_if_clean())
        else:
            self._over.add(lambda _record: self._forget_if_clean())

    def _remove_cgroup(self, attempt: int = 0) -> None:
        group = self._cgroup
        try:
            if group is not None and group.exists():
                if group.processes():
                    group.kill_all()
                    if attempt < len(_REMOVE_TRIES_S):
                        self._loop.later(_REMOVE_TRIES_S[attempt], lambda: self._remove_cgroup(attempt + 1))
                        return
                group.remove()
        except OakumError:
            report()  # the sandbox's own removal takes what is left, and says what cannot be
        self._cgroup_removed()

    def _cgroup_removed(self) -> None:
        self._cgroup_gone = True
        self._forget_if_clean()

    def _forget_if_clean(self) -> None:
        """Leave, when the cgroup is gone and someone wants it (or it never came to be)."""
        if not self._cgroup_gone or self._state not in (lifecycle.EXITED, lifecycle.GONE):
            return
        if self._state == lifecycle.EXITED and not self._when_deleted:
            return
        self._state = lifecycle.GONE
        self.execs.forget_all()
        self._forget_note()
        self._gone(self)
        waiting, self._when_deleted = self._when_deleted, []
        for deleted in waiting:
            deleted()

    def _forget_note(self) -> None:
        directory, name = self._pod.directory, self.container_id
        if not self._pid and name in cleanup.noted(directory):
            # Whoever made it was killed before we were told: what it had made ends.
            if error := cleanup.attempt(cleanup.end_noted, directory, name):
                os.write(2, f"{error}\n".encode())  # the note stays, for the sandbox's own removal
            return
        cleanup.forget_process(directory, name)
