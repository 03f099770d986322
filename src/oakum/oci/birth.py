# SPDX-License-Identifier: Apache-2.0
"""Cloning the children that become container processes: into a joined PID namespace, by a helper where rights ask for it."""

from __future__ import annotations

import os

from oakum.errors import FailedPrecondition, SystemFailure, from_dict
from oakum.linux import namespaces as ns
from oakum.linux import process as proc
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.model.light import TYPE_CHECKING
from oakum.oci.cgroups import Cgroup
from oakum.oci.handover import guard
from oakum.oci.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Callable


class Nothing:
    """A context without anything in it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def clone(
    flags: int,
    pid_namespace_fd: int | None,
    body: Callable[[], int],
    cgroup_fd: int | None,
    *,
    last: bool = False,
) -> tuple[int, Fd]:
    """Clone a child that runs `body`, into the PID namespace and the v2 cgroup given; its pid and pidfd.

    The `last` child of this process leaves it where it cannot make others. Raises SystemFailure.
    """
    own: Fd | None = None
    try:
        if pid_namespace_fd is not None and last:
            ns.setns(pid_namespace_fd, ns.CLONE_NEWPID, target="pid namespace")
        elif pid_namespace_fd is not None:
            # Children are born into the joined PID namespace; ours is set back right after.
            own = Fd(os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC))
            ns.setns(pid_namespace_fd, ns.CLONE_NEWPID, target="pid namespace")
        pid = proc.clone(flags, pidfd=True, cgroup_fd=cgroup_fd)
        if pid == 0:
            proc.run_and_exit(body)
    except OSError as failure:
        if isinstance(failure, ProcessLookupError) and pid_namespace_fd is not None:
            # It ended after its pidfd was opened and has not been reaped yet.
            raise FailedPrecondition(
                "exec in container", "its first process", "the container's process has ended"
            ) from failure
        raise SystemFailure.from_os_error(
            failure, call_name(failure) or "clone", "container process"
        ) from failure
    finally:
        if own is not None:
            with own:
                ns.setns(own.fileno(), ns.CLONE_NEWPID, target="own pid namespace")
    assert pid.pidfd is not None
    return int(pid), pid.pidfd


def clone_after_joining(
    join_fds: tuple[tuple[str, int], ...],
) -> Callable[[int, int | None, Callable[[], int], int | None], tuple[int, Fd]]:
    """`clone` from a helper that has joined namespaces, which this process must not: it needs the host's rights."""

    def by_helper(
        flags: int, pid_namespace_fd: int | None, body: Callable[[], int], cgroup_fd: int | None
    ) -> tuple[int, Fd]:
        ours, theirs = Channel.pair()

        def help_out() -> None:
            ours.close()
            for kind, fd in join_fds:
                try:
                    ns.setns(fd, ns.FLAGS[kind])
                except OSError as failure:
                    raise SystemFailure.from_os_error(failure, "setns", f"{kind} namespace") from failure
            pid, pidfd = clone(flags | proc.CLONE_PARENT, pid_namespace_fd, body, cgroup_fd, last=True)
            with pidfd:
                theirs.send("cloned", {"pid": pid}, (pidfd.fileno(),))

        try:
            helper, helper_fd = clone(flags & proc.CLONE_PARENT, None, guard(theirs, help_out), None)
        finally:
            theirs.close()
        with helper_fd:
            message = ours.receive()
            ours.close()
            if not flags & proc.CLONE_PARENT:
                os.waitpid(helper, 0)
        if message is None:
            raise SystemFailure("clone", "container process", "the helper was killed")
        if message.kind == "error":
            raise from_dict(message.body["error"])
        return int(message.body["pid"]), message.fds[0]

    return by_helper


def ordered(join_fds: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    """Namespaces in the order to join them: the user namespace last, for until then we have the host's rights."""
    return sorted(join_fds, key=lambda item: item[0] == "user")


def unified_procs(group: Cgroup) -> tuple[Fd, ...]:
    """cgroup.procs of the group in the v2 tree, if there is one, for a process that will write "0" to it."""
    tree = group.layout.unified
    if tree is None:
        return ()
    path = f"{group.directory(tree)}/cgroup.procs"
    try:
        return (Fd(os.open(path, os.O_WRONLY | os.O_CLOEXEC)),)
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "open", path) from failure


def unified_path(pid: int) -> str:
    """The v2 group a process is in, relative to the tree's root."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return next((line.rstrip("\n")[3:] for line in file if line.startswith("0::")), "/")
