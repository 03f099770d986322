# SPDX-License-Identifier: Apache-2.0
"""Making a container and running further processes in it: the parent's side, as a library.

`create` clones the container's first process and returns at once; what the child reports is read from `status_fd`
when it becomes readable. The caller is single-threaded and the child's reaper. State on disk, stdio pumping and exit
records are the caller's (the shim, `oakum oci`).
"""

from __future__ import annotations

import errno
import os
import select
import time

from oakum.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    OakumError,
    SystemFailure,
    from_dict,
)
from oakum.linux import namespaces as ns
from oakum.linux import pids
from oakum.linux import process as proc
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING, NamedTuple, signal
from oakum.model.rootfs import RootfsSource
from oakum.oci import execution, init, rootfs
from oakum.oci.birth import Nothing, clone, clone_after_joining, ordered, unified_path, unified_procs
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.layout import Layout, normalise_path
from oakum.oci.credentials import plan_credentials, set_oom_score_adj
from oakum.oci.gate import Gate
from oakum.oci.handover import Handover, guard
from oakum.oci.mappings import write_mappings
from oakum.oci.plan import Plan, make_plan
from oakum.oci.rights import (
    check_rights,
    clone_without_rights,
    has_rights,
    open_proc,
    other_namespaces,
    same_namespace,
)
from oakum.oci.spec import Hooks, Linux, LinuxResources, Process, Spec
from oakum.oci.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from oakum.oci.listener import Listener
    from oakum.oci.tuning import Tuning

_EXEC_NAMESPACES: Final = (
    ns.CLONE_NEWNS | ns.CLONE_NEWCGROUP | ns.CLONE_NEWUTS | ns.CLONE_NEWIPC | ns.CLONE_NEWNET
)

# Members that `oci.tuning` carries out; of process and of linux.
_TUNED: Final = frozenset({"scheduler", "ioPriority", "execCPUAffinity", "memoryPolicy", "personality"})

# Below this a container joins late, so that its limit need not hold our set-up too.
_TINY_MEMORY_BYTES: Final = 16 << 20


class CreateRequest(NamedTuple):
    """A container to make. Descriptors are borrowed until `create` returns.

    `rootfs` None means the spec's root.path. `namespace_fds` (by runtime-spec name) win over what the spec says of
    that namespace. `user` ("name", "name:group", "uid:gid"; "" = the spec's numbers) is resolved in the image.
    With `for_parent` the process becomes a child of the caller's parent (CLONE_PARENT), which reaps it.
    With `gate` it waits there for its start, and not for `ContainerProcess.start`. With `hooks` the spec's hooks run:
    the status "mounted" comes first, and `ContainerProcess.hooked` lets it go on. The container inherits descriptors
    3 to 2 + `preserve_fds`. Unless `alone` the caller has descriptors that are for others, and the child closes all but
    what it is given here; it takes neither `gate` nor `listener` nor `preserve_fds` then.
    """

    container_id: str
    spec: Spec
    bundle: str
    rootfs: RootfsSource | None = None
    stdio: tuple[int, int, int] | None = None
    namespace_fds: dict[str, int] = {}
    user: str = ""
    extra_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    seccomp_bpf: bytes = b""
    seccomp_flags: int = 0
    listener: Listener | None = None
    for_parent: bool = False
    gate: Gate | None = None
    hooks: bool = False
    preserve_fds: int = 0
    new_keyring: bool = True
    alone: bool = True


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
        poll = select.poll()
        poll.register(self.status_fd, select.POLLIN)
        while True:
            status = self.read_status()
            if status is not None:
                return status
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                raise DeadlineExceeded(
                    "set up container process", f"pid {self.pid}", f"no word after {timeout_s} s"
                )
            poll.poll(left_ms)

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


InitProcess = ContainerProcess
ExecProcess = ContainerProcess


def create(request: CreateRequest) -> InitProcess:
    """Clone the container's first process and make its cgroup; does not wait for the child.

    The cgroup at linux.cgroupsPath is made and limited here; removing it (`Cgroup.remove`) is the caller's.

    Raises:
        InvalidArgument, Unimplemented: the spec cannot be carried out.
        SystemFailure: clone or the cgroup failed; nothing is left behind but an empty cgroup.
    """
    spec = request.spec
    linux = spec.get("linux") or {}
    process = spec.get("process")
    if process is None:
        raise InvalidArgument("create container", request.container_id, "the spec has no process")
    wanted_path = linux.get("cgroupsPath") or ""
    cgroup_path = normalise_path(wanted_path) if wanted_path else ""
    layout = detect_layout() if cgroup_path or _wants_cgroup_mount(spec) else None
    plan = make_plan(
        spec,
        bundle=request.bundle,
        layout=layout,
        cgroup_path=cgroup_path,
        joined=frozenset(request.namespace_fds),
    )
    if request.rootfs is None and not plan.root_path:
        raise InvalidArgument(
            "create container", request.container_id, "neither a root file system nor root.path"
        )
    user_namespace = "user" in plan.create or any(kind == "user" for kind, _ in plan.join)
    credentials = plan_credentials(
        process, request.seccomp_bpf, own_user_namespace=user_namespace, seccomp_flags=request.seccomp_flags
    )
    check_rights(plan, user_namespace=user_namespace)
    hooks: Hooks = (spec.get("hooks") or {}) if request.hooks else {}
    held = _Held()
    try:
        proc_fd = held.keep(open_proc())
        job = init.InitJob(
            spec=spec,
            plan=plan,
            rootfs=request.rootfs,
            join_fds=_join_fds(plan, request.namespace_fds, held),
            unshare_kinds=(),
            stdio=request.stdio,
            handover=Handover(
                name=request.container_id,
                process=process,
                credentials=credentials,
                user=request.user,
                extra_groups=request.extra_groups,
                strict_groups=request.strict_groups,
                proc_fd=proc_fd,
                new_cgroup_namespace="cgroup" in plan.create,
                create_cwd=True,
                wait_for_start=True,
                gate=request.gate,
                preserve_fds=request.preserve_fds,
                new_keyring=request.new_keyring,
                start_hooks=tuple(hooks.get("startContainer") or ()),
                tuning=_tuning(process, linux),
                listener=request.listener,
            ),
            mapped_by_parent="user" in plan.create,
            has_cgroup=bool(cgroup_path),
            in_user_namespace=user_namespace,
            opened=None,
            hooked=request.hooks,
            container_hooks=tuple(hooks.get("createContainer") or ()),
        )
        if (user_namespace or plan.has_id_maps) and has_rights():
            job = job._replace(opened=_open_for_child(job, held))
        parentage = proc.CLONE_PARENT if request.for_parent else 0
        return _launch(job, layout, cgroup_path, parentage, alone=request.alone)
    finally:
        held.close()


def spawn_exec(request: ExecRequest) -> ExecProcess:
    """Clone a process that joins the container and executes the command; does not wait for the child.

    It does not wait for `start` either: "created" tells the user and the console, end-of-file that it runs.

    Raises:
        FailedPrecondition: the container's process has ended.
        SystemFailure: clone or a descriptor failed.
    """
    process = request.process
    held = _Held()
    try:
        pidfd = held.keep(_open_pidfd(request.container_pid))
        own_user = same_namespace(request.container_pid, "user")
        flags = _EXEC_NAMESPACES | (0 if own_user else ns.CLONE_NEWUSER)
        if os.path.exists("/proc/self/ns/time") and not same_namespace(request.container_pid, "time"):
            flags |= ns.CLONE_NEWTIME
        job = execution.ExecJob(
            container_pidfd=pidfd,
            namespace_flags=flags if has_rights() else other_namespaces(request.container_pid, flags),
            in_user_namespace=not own_user,
            stdio=request.stdio,
            cgroup_fds=(),
            handover=Handover(
                name=request.name or f"exec-{request.container_pid}",
                process=process,
                credentials=plan_credentials(
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
                tuning=_tuning(process, request.linux),
                listener=request.listener,
            ),
        )
        ours, theirs = Channel.pair()

        def make_body(cgroup_fds: tuple[Fd, ...]) -> Callable[[], int]:
            def body() -> None:
                ours.close()
                execution.run(job._replace(cgroup_fds=cgroup_fds), theirs)

            return guard(theirs, body)

        try:
            pid, child_pidfd = _clone_exec(request, pidfd, make_body)
        except OakumError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ExecProcess(pid, child_pidfd, ours)
    finally:
        held.close()


class _Held:
    """Descriptors that the child inherits and the parent closes after clone."""

    def __init__(self) -> None:
        self._fds: list[Fd] = []

    def keep(self, fd: Fd) -> int:
        self._fds.append(fd)
        return fd.fileno()

    def take(self, *fds: Fd) -> None:
        self._fds += fds

    def close(self) -> None:
        for fd in self._fds:
            fd.close()


def _launch(
    job: init.InitJob, layout: Layout | None, cgroup_path: str, parentage: int, *, alone: bool
) -> InitProcess:
    group = Cgroup(layout, cgroup_path) if layout is not None and cgroup_path else None
    linux = job.spec.get("linux") or {}
    resources = linux.get("resources") or {}
    ours, theirs = Channel.pair()
    kinds = [kind for kind in job.plan.create if kind not in ("cgroup", "time")]
    joins_user = any(kind == "user" for kind, _ in job.join_fds)
    pid_fd = next((fd for kind, fd in job.join_fds if kind == "pid"), None)
    network_fd = next((fd for kind, fd in job.join_fds if kind == "network"), None)
    if joins_user:
        # New namespaces have to belong to the user namespace, so they are made after joining it.
        job = job._replace(unshare_kinds=tuple(kind for kind in kinds if kind != "pid"))
        kinds = [kind for kind in kinds if kind == "pid"]
    job = job._replace(join_fds=tuple((kind, fd) for kind, fd in ordered(job.join_fds) if kind != "pid"))
    # A new PID namespace too has to belong to the user namespace that is joined: /proc could not be mounted else.
    joined_first = job.join_fds if joins_user and "pid" in kinds else ()
    if joined_first:
        job = job._replace(join_fds=())

    def body() -> None:
        if alone:
            ours.close()
        else:
            proc.close_except({2, theirs.fileno(), *job.given_fds()})
        init.run(job, theirs)

    try:
        birthplace = _birthplace(group, resources) if group is not None else None
        with birthplace or Nothing():
            cgroup_fd = birthplace.fileno() if birthplace is not None else None
            make = clone if not joined_first else clone_after_joining(joined_first)
            pid, pidfd = make(ns.flags_of(kinds) | parentage, pid_fd, guard(theirs, body), cgroup_fd)
    except OakumError:
        ours.close()
        raise
    finally:
        theirs.close()
    child = InitProcess(pid, pidfd, ours)
    try:
        if job.mapped_by_parent:
            write_mappings(pid, linux)
            child.warnings = tuple(
                set_oom_score_adj(job.handover.credentials, job.handover.proc_fd, str(pid))
            )
            ours.send("mapped")
        _move_devices(pid, network_fd, linux)
        if group is not None:
            child.warnings += _prepare_cgroup(group, resources, ours, born_in_unified=birthplace is not None)
    except BaseException:
        child.abort()
        raise
    return child


def _birthplace(group: Cgroup, resources: LinuxResources) -> Fd | None:
    """The v2 directory the child is born in, or None when it has to join late or there is no v2 tree.

    Born there, what the set-up writes to memory is charged to the container: some 1.5 MB. That is nothing where
    memory is accounted in v1, and too much for a container with a tiny limit.
    """
    limit = (resources.get("memory") or {}).get("limit") or -1
    if group.layout.mode == "v2" and 0 < limit < _TINY_MEMORY_BYTES:
        return None
    group.create_unified()
    return group.open_unified()


def _prepare_cgroup(
    group: Cgroup, resources: LinuxResources, channel: Channel, *, born_in_unified: bool
) -> tuple[str, ...]:
    """Make the group, send its descriptors and set its limits, while the child is busy with its mounts.

    The limits may come after the child has joined: it waits for `start`, which can only come after this.
    """
    group.create()
    fds = group.join_fds(unified=not born_in_unified)
    try:
        channel.send("cgroup", None, tuple(fd.fileno() for fd in fds))
    finally:
        for fd in fds:
            fd.close()
    return tuple(group.apply(resources))


def _join_fds(plan: Plan, given: dict[str, int], held: _Held) -> tuple[tuple[str, int], ...]:
    result: list[tuple[str, int]] = []
    for kind, path in plan.join:
        if kind in given:
            result.append((kind, given[kind]))
            continue
        try:
            result.append((kind, held.keep(Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)))))
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "open", f"{kind} namespace {path}") from failure
    return tuple(result)


def _open_for_child(job: init.InitJob, held: _Held) -> tuple[Fd, dict[int, Fd]]:
    """The root and bind sources, opened here for a child that has not the rights or not the PID namespace for it."""
    user_fd = next((fd for kind, fd in job.join_fds if kind == "user"), None)
    root = rootfs.open_root(job.rootfs, job.plan.root_path, user_fd=user_fd)
    held.take(root)
    sources = rootfs.open_sources(job.plan)
    held.take(*sources.values())
    return root, sources


def _tuning(process: Process, linux: Linux) -> Tuning | None:
    if not _TUNED.isdisjoint((*process, *linux)):
        from oakum.oci.tuning import plan_tuning  # few processes pay for it

        return plan_tuning(process, linux)
    return None


def _move_devices(pid: int, network_fd: int | None, linux: Linux) -> None:
    if devices := linux.get("netDevices"):
        from oakum.oci.netdevices import move_devices  # few containers pay for it

        path = f"/proc/{pid}/ns/net" if network_fd is None else f"/proc/self/fd/{network_fd}"
        move_devices(path, {name: device.get("name") or name for name, device in devices.items()})


def _wants_cgroup_mount(spec: Spec) -> bool:
    return any((mount.get("type") or "") in ("cgroup", "cgroup2") for mount in spec.get("mounts") or [])


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
        return clone_without_rights(request, parentage, pid_namespace_fd, make_body)
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
