# SPDX-License-Identifier: Apache-2.0
"""A further process in a running container, from clone to execve. Runs in a forked, single-threaded copy of its parent."""

from __future__ import annotations

import os

from oakum.errors import SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.namespaces import setns
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci import credentials
from oakum.oci.handover import Handover, hand_over, join_cgroup, open_console, settle, take_console
from oakum.oci.mappings import drop_groups
from oakum.oci.wire import Channel

if TYPE_CHECKING:
    from typing import NoReturn


class ExecJob(NamedTuple):
    """Everything the child inherits."""

    container_pidfd: int
    namespace_flags: int
    in_user_namespace: bool
    stdio: tuple[int, int, int] | None
    cgroup_fds: tuple[Fd, ...]
    handover: Handover


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
        setns(job.container_pidfd, job.namespace_flags, target="namespaces of the container")
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
