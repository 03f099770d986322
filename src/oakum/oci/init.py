# SPDX-License-Identifier: Apache-2.0
"""The container's first process, from clone to execve. Runs in a forked, single-threaded copy of its parent."""

from __future__ import annotations

import os

from oakum.errors import SystemFailure
from oakum.linux import mount as m
from oakum.linux import procfs
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.linux.namespaces import FLAGS, flags_of, setns, unshare
from oakum.linux.sysinfo import loopback_up, set_domainname, set_hostname
from oakum.model import jsontext as json
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.model.rootfs import RootfsSource
from oakum.oci import credentials, rootfs
from oakum.oci.handover import Handover, hand_over, join_cgroup, open_console, settle, take_console
from oakum.oci.hooks import run_hooks
from oakum.oci.mappings import drop_groups
from oakum.oci.plan import Plan
from oakum.oci.spec import Hook, Spec
from oakum.oci.wire import Channel, Message, die_unless

if TYPE_CHECKING:
    from typing import Any, NoReturn


class InitJob(NamedTuple):
    """Everything the child inherits. `opened` is what a parent with more rights opened for it: the root and bind sources."""

    spec: Spec
    plan: Plan
    rootfs: RootfsSource | None
    join_fds: tuple[tuple[str, int], ...]
    unshare_kinds: tuple[str, ...]
    stdio: tuple[int, int, int] | None
    handover: Handover
    mapped_by_parent: bool
    has_cgroup: bool
    in_user_namespace: bool
    opened: tuple[Fd, dict[int, Fd]] | None
    hooked: bool = False
    container_hooks: tuple[Hook, ...] = ()

    def given_fds(self) -> set[int]:
        """What the child has to have open, besides its channel."""
        fds = {self.handover.proc_fd, *(fd for _, fd in self.join_fds), *(self.stdio or ())}
        if self.opened is not None:
            root, sources = self.opened
            fds |= {root.fileno(), *(tree.fileno() for tree in sources.values())}
        return fds


def run(job: InitJob, channel: Channel) -> NoReturn:
    """Become the container. Raises OakumError, OSError, which `guard` reports."""
    settle()
    warnings: list[str] = []
    if not job.mapped_by_parent:
        warnings = credentials.set_oom_score_adj(job.handover.credentials, job.handover.proc_fd)
    _enter_namespaces(job, channel)
    if job.in_user_namespace and "pid" in job.plan.create:
        _take_own_proc(job)
    _name_host(job)
    cgroup = _CgroupGate(channel, needed=job.has_cgroup)
    console, state = _build_root(job, cgroup, channel)
    join_cgroup(cgroup.wait())
    if console is None and job.stdio is not None:
        credentials.duplicate_stdio(job.stdio)
    elif console is not None:
        take_console(console[1])
    hand_over(job.handover._replace(state=state), channel, console[0] if console else None, warnings)


def _take_own_proc(job: InitJob) -> None:
    """Where the parent could only give the host's proc: one of the new PID namespace, attached nowhere."""
    if job.opened is not None:
        return
    proc = procfs.open_private_proc()
    os.dup2(proc.fileno(), job.handover.proc_fd, inheritable=False)
    proc.close()


class _CgroupGate:
    """Waits, once, for the parent's word that the cgroup is there."""

    def __init__(self, channel: Channel, *, needed: bool) -> None:
        self._channel = channel
        self._message: Message | None = None
        self._needed = needed

    def wait(self) -> tuple[Fd, ...]:
        """The descriptors of cgroup.procs."""
        if not self._needed:
            return ()
        if self._message is None:
            self._message = die_unless(self._channel.receive(), "cgroup")
        return self._message.fds


def _enter_namespaces(job: InitJob, channel: Channel) -> None:
    for kind, fd in job.join_fds:
        try:
            setns(fd, FLAGS[kind])
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "setns", f"{kind} namespace") from failure
    if job.unshare_kinds:
        unshare(flags_of(list(job.unshare_kinds)))
    if job.mapped_by_parent:
        die_unless(channel.receive(), "mapped")
    if job.handover.credentials and (job.in_user_namespace):
        # Root of the new user namespace, so that what is made here belongs to it.
        drop_groups()
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    if "time" in job.plan.create:
        from oakum.oci.timens import enter_time_namespace  # loaded by the parent: few containers pay for it

        linux = job.spec.get("linux") or {}
        enter_time_namespace(job.handover.proc_fd, linux, unseen="pid" in job.plan.create)


def _name_host(job: InitJob) -> None:
    if "network" in job.plan.create:
        loopback_up()
    if hostname := job.spec.get("hostname"):
        set_hostname(hostname)
    if domainname := job.spec.get("domainname"):
        set_domainname(domainname)


def _build_root(
    job: InitJob, cgroup: _CgroupGate, channel: Channel
) -> tuple[tuple[Fd, Fd] | None, dict[str, Any]]:
    """Mount everything and pivot; the console's master and slave when the process has a terminal, and the hooks' state."""
    plan = job.plan
    root, sources = job.opened or (None, rootfs.open_sources(plan))
    user_namespace = job.in_user_namespace
    try:
        # From here on nothing done to the host's mounts leaves this namespace; what the host does still comes in.
        m.set_propagation("/", m.MS_SLAVE | m.MS_REC)
        m.set_propagation("/", m.MS_PRIVATE)  # pivot_root refuses a shared parent
        # only now: an old kernel's overlay has to be mounted somewhere for a moment
        root = root or rootfs.open_root(job.rootfs, plan.root_path)
        # Hooks look for it where the spec says it is; else it goes where nothing has to be looked up.
        rootfs.attach_root(root, plan.root_path if job.hooked else "")
    except OSError as failure:
        raise rootfs.step_failure(failure, "root file system") from failure
    builder = rootfs.Builder(
        root.fileno(), sources, user_namespace=user_namespace, wait_for_cgroup=lambda: _ignore(cgroup.wait())
    )
    builder.run(plan.steps)
    state = _run_hooks(job, cgroup, channel) if job.hooked else {}
    console = None
    if job.handover.process.get("terminal"):
        console = open_console(root.fileno(), job.handover.process, bind=True)
    _write_sysctls(plan, job.handover.proc_fd)
    builder.run(plan.seal)
    builder.close()
    try:
        if plan.root_read_only:
            m.set_attributes(root.fileno(), set_flags=m.ATTR_RDONLY, target="/")
        m.enter_root(root.fileno())
        if plan.root_propagation:
            m.set_propagation("/", plan.root_propagation)
    except OSError as failure:
        raise rootfs.step_failure(failure, "root file system") from failure
    root.close()
    return console, state


def _run_hooks(job: InitJob, cgroup: _CgroupGate, channel: Channel) -> dict[str, Any]:
    """Let the parent run the runtime's hooks, then run the container's; the state that they were given."""
    cgroup.wait()  # told before the parent waits for us, and so received before its next message
    if not channel.send("mounted"):
        os._exit(1)
    state: dict[str, Any] = die_unless(channel.receive(), "hooked").body["state"]
    if job.container_hooks:
        run_hooks("createContainer", job.container_hooks, json.dumps(state).encode())
    return state


def _ignore(_: object) -> None:
    """The gate's descriptors are for later."""


def _write_sysctls(plan: Plan, proc_fd: int) -> None:
    for key, value in plan.sysctls:
        # "a.b/c" stands for a/b.c: whichever separator comes first is the separator (sysctl(8)).
        path = key.replace(".", "/") if "/" not in key else key
        try:
            procfs.write(proc_fd, f"sys/{path}", value)
        except OSError as failure:
            raise SystemFailure.from_os_error(
                failure, call_name(failure) or "write", f"sysctl {key}", hint="does this kernel have it?"
            ) from failure
