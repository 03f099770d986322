# SPDX-License-Identifier: Apache-2.0
"""A further process in a running container, from clone to execve: `spawn_exec` for the parent, `run` for its child.

The child is a forked, single-threaded copy of its parent, which reaps it. What it says is read with `child`.
"""

from __future__ import annotations

import errno
import os

from oakum.errors import FailedPrecondition, OakumError, SystemFailure
from oakum.linux import namespaces as ns
from oakum.linux import pids
from oakum.linux import process as proc
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci import credentials
from oakum.oci.birth import Nothing, clone, clone_after_joining, unified_path, unified_procs
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.child import ContainerProcess, Held
from oakum.oci.handover import (
    Handover,
    guard,
    hand_over,
    join_cgroup,
    open_console,
    settle,
    take_console,
    wanted_tuning,
)
from oakum.oci.mappings import drop_groups
from oakum.oci.rights import has_rights, open_proc, other_namespaces, same_namespace
from oakum.oci.spec import Linux, Process
from oakum.oci.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

    from oakum.oci.listener import Listener

_EXEC_NAMESPACES: Final = (
    ns.CLONE_NEWNS | ns.CLONE_NEWCGROUP | ns.CLONE_NEWUTS | ns.CLONE_NEWIPC | ns.CLONE_NEWNET
)


class ExecRequest(NamedTuple):
    """A process to run in the container whose first process is `container_pid` (a child of the caller).

    `cgroup_path` "" leaves it in the caller's cgroup. `unified_path` is where in the v2 tree it is born instead:
    a group of its own below the container's, by which all it starts can be found. `for_parent` as in `CreateRequest`.
    Of `linux` an exec too has the memory policy and the personality.
    """

    container_pid: int
    process: Process
    stdio: tuple[int, int, int] | None = None
    cgroup_path: str = ""
    unified_path: str = ""
    user: str = ""
    extra_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    seccomp_bpf: bytes = b""
    seccomp_flags: int = 0
    listener: Listener | None = None
    for_parent: bool = False
    name: str = ""
    preserve_fds: int = 0
    linux: Linux = {}


class ExecJob(NamedTuple):
    """Everything the child inherits."""

    container_pidfd: int
    namespace_flags: int
    in_user_namespace: bool
    stdio: tuple[int, int, int] | None
    cgroup_fds: tuple[Fd, ...]
    handover: Handover


def spawn_exec(request: ExecRequest) -> ContainerProcess:
    """Clone a process that joins the container and executes the command; does not wait for the child.

    It does not wait for `start` either: "created" tells the user and the console, end-of-file that it runs.

    Raises:
        FailedPrecondition: the container's process has ended.
        SystemFailure: clone or a descriptor failed.
    """
    process = request.process
    held = Held()
    try:
        pidfd = held.keep(_open_pidfd(request.container_pid))
        own_user = same_namespace(request.container_pid, "user")
        flags = _EXEC_NAMESPACES | (0 if own_user else ns.CLONE_NEWUSER)
        if os.path.exists("/proc/self/ns/time") and not same_namespace(request.container_pid, "time"):
            flags |= ns.CLONE_NEWTIME
        job = ExecJob(
            container_pidfd=pidfd,
            namespace_flags=flags if has_rights() else other_namespaces(request.container_pid, flags),
            in_user_namespace=not own_user,
            stdio=request.stdio,
            cgroup_fds=(),
            handover=Handover(
                name=request.name or f"exec-{request.container_pid}",
                process=process,
                credentials=credentials.plan_credentials(
                    process,
                    request.seccomp_bpf,
                    own_user_namespace=not own_user,
                    seccomp_flags=request.seccomp_flags,
                ),
                user=request.user,
                extra_groups=request.extra_groups,
                strict_groups=request.strict_groups,
                proc_fd=held.keep(open_proc()),
                new_cgroup_namespace=False,
                create_cwd=False,
                wait_for_start=False,
                preserve_fds=request.preserve_fds,
                tuning=wanted_tuning(process, request.linux),
                listener=request.listener,
            ),
        )
        ours, theirs = Channel.pair()

        def make_body(cgroup_fds: tuple[Fd, ...]) -> Callable[[], int]:
            def body() -> None:
                ours.close()
                run(job._replace(cgroup_fds=cgroup_fds), theirs)

            return guard(theirs, body)

        try:
            pid, child_pidfd = _clone_exec(request, pidfd, make_body)
        except OakumError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ContainerProcess(pid, child_pidfd, ours)
    finally:
        held.close()


def _open_pidfd(pid: int) -> Fd:
    try:
        return pids.pidfd_open(pid)
    except ProcessLookupError as failure:
        raise FailedPrecondition(
            "exec in container", f"pid {pid}", "the container's process has ended"
        ) from failure
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "pidfd_open", f"pid {pid}") from failure


def _clone_exec(
    request: ExecRequest, pid_namespace_fd: int, make_body: Callable[[tuple[Fd, ...]], Callable[[], int]]
) -> tuple[int, Fd]:
    """Clone the exec'd process into the container's cgroup.

    A v2 group with children of its own (a container that runs containers) takes no process: then the child goes
    where the container's first process is.
    """
    parentage = proc.CLONE_PARENT if request.for_parent else 0
    if not has_rights():
        return _clone_without_rights(request, parentage, pid_namespace_fd, make_body)
    if not request.cgroup_path:
        return clone(parentage, pid_namespace_fd, make_body(()), None)
    layout = detect_layout()
    group = Cgroup(layout, request.cgroup_path)
    born_in = Cgroup(layout, request.unified_path or request.cgroup_path)
    fds = tuple(group.join_fds(unified=False))
    late: tuple[Fd, ...] = ()
    try:
        with born_in.open_unified() or Nothing() as unified:
            try:
                return clone(
                    parentage, pid_namespace_fd, make_body(fds), unified.fileno() if unified else None
                )
            except SystemFailure as failure:
                if unified is None or failure.errno not in (errno.EBUSY, errno.EAGAIN):
                    raise
                full = failure.errno == errno.EAGAIN
        if full:
            # As many processes as allowed: who would look into that must get in all the same. Moving is not limited.
            late = tuple(group.join_fds(unified=False)) + unified_procs(born_in)
            return clone(parentage, pid_namespace_fd, make_body(late), None)
        with Cgroup(layout, unified_path(request.container_pid)).open_unified() or Nothing() as unified:
            return clone(parentage, pid_namespace_fd, make_body(fds), unified.fileno() if unified else None)
    finally:
        for fd in (*fds, *late):
            fd.close()


def _clone_without_rights(
    request: ExecRequest,
    flags: int,
    pid_namespace_fd: int,
    make_body: Callable[[tuple[Fd, ...]], Callable[[], int]],
) -> tuple[int, Fd]:
    """Clone a process into a container of ours: the right to its PID namespace comes with its user namespace.

    Raises OakumError.
    """
    groups: list[Fd] = []
    try:
        if request.cgroup_path:
            groups = Cgroup(detect_layout(), request.unified_path or request.cgroup_path).join_fds()
        with Fd(os.open(f"/proc/{request.container_pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)) as user:
            join = clone_after_joining((("user", user.fileno()),))
            return join(flags, pid_namespace_fd, make_body(tuple(groups)), None)
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure, "join", f"user namespace of process {request.container_pid}"
        ) from failure
    finally:
        for fd in groups:
            fd.close()


# -- the child


def run(job: ExecJob, channel: Channel) -> NoReturn:
    """Become the exec'd process. Raises OakumError, OSError, which `guard` reports."""
    settle()
    affine = "execCPUAffinity" in job.handover.process
    if affine:
        from oakum.oci.tuning import set_affinity  # loaded by the parent: few processes pay for it

        set_affinity(job.handover.process, "initial")
    warnings = credentials.set_oom_score_adj(job.handover.credentials, job.handover.proc_fd)
    # Before the container's mounts are ours: the paths of cgroup.procs are open already, memory is charged from here.
    join_cgroup(job.cgroup_fds)
    if affine:
        from oakum.oci.tuning import set_affinity

        set_affinity(job.handover.process, "final")
    try:
        ns.setns(job.container_pidfd, job.namespace_flags, target="namespaces of the container")
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure, "setns", "namespaces of the container", hint="has the container ended?"
        ) from failure
    if job.in_user_namespace:
        drop_groups()
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    console: Fd | None = None
    if job.handover.process.get("terminal"):
        with Fd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            console, slave = open_console(root.fileno(), job.handover.process, bind=False)
        take_console(slave)
    elif job.stdio is not None:
        credentials.duplicate_stdio(job.stdio)
    hand_over(job.handover, channel, console, warnings)
