# SPDX-License-Identifier: Apache-2.0
"""What a runtime without root's rights does otherwise: it has them only inside the user namespace that it makes.

with rights      the parent opens all that the child has no right to: proc, the root, the sources of binds
without          the child does it itself, as root of its namespace; the parent maps ids by newuidmap or only its own,
joins namespaces by a helper, and has control groups where they were delegated to it
"""

from __future__ import annotations

import errno
import os

from oakum.errors import FailedPrecondition, PermissionDenied, SystemFailure
from oakum.linux.durable import read_file
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.linux.namespaces import FLAGS, PROC_NAMES
from oakum.linux.procfs import open_private_proc
from oakum.model.light import TYPE_CHECKING
from oakum.oci.cgroups import Cgroup, detect_layout

if TYPE_CHECKING:
    from typing import Final

    from oakum.oci.plan import Plan
    from oakum.oci.spec import LinuxResources

_PROC_ROOT_INODE: Final = 1  # PROC_ROOT_INO of linux/proc_ns.h


def has_rights() -> bool:
    """Whether this process is root, of the host or of the namespace that it lives in."""
    return os.geteuid() == 0


def open_proc() -> Fd:
    """A proc that no container can reach: a private one, or for who may not have one, the host's. Raises SystemFailure."""
    try:
        return open_private_proc()
    except PermissionError:
        pass  # no right to a PID namespace: only a child of ours will have one
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, call_name(failure) or "fsopen", "proc") from failure
    try:
        proc = Fd(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        own = os.readlink("self", dir_fd=proc.fileno())
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "open", "/proc") from failure
    if os.fstat(proc.fileno()).st_ino != _PROC_ROOT_INODE or own != str(os.getpid()):
        proc.close()
        raise SystemFailure("open", "/proc", "it is not the kernel's proc file system of this process")
    return proc


def in_user_namespace() -> bool:
    """Whether this process sees other ids than the host, and may so be refused what is root's there."""
    return read_file("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]


def delegated_path(path: str, resources: LinuxResources) -> tuple[str, LinuxResources]:
    """The control group to use, "" where none was delegated, and what of `resources` can be done then.

    Rules for devices are root's alone, and mean little in a user namespace, where nobody can make any.

    Raises:
        PermissionDenied: there are limits, and nobody to keep them.
    """
    limits: LinuxResources = {**resources}
    limits.pop("devices", None)
    group = Cgroup(detect_layout(), path)
    try:
        group.create()
        for fd in group.join_fds():
            fd.close()
    except SystemFailure as failure:
        if failure.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
            raise
        group.remove()
        if wanted := sorted(name for name, value in limits.items() if value):
            raise PermissionDenied(
                "limit container",
                f"$.linux.resources.{wanted[0]}",
                f"control group {path} is not ours to make",
                hint="have one delegated, for example by `systemd-run --user --scope -p Delegate=yes`",
            ) from failure
        return "", {}
    return path, limits


def check_rights(plan: Plan, *, user_namespace: bool) -> None:
    """Refuse what nobody but root can do, before anything is made. Raises PermissionDenied."""
    if has_rights():
        return
    if not user_namespace:
        raise PermissionDenied(
            "create container",
            "$.linux.namespaces",
            "without root's rights it needs a user namespace of its own",
            hint="try `oakum oci spec --rootless`",
        )
    if plan.has_id_maps:
        raise PermissionDenied(
            "create container", "$.mounts[].uidMappings", "only root can mount with other ids"
        )


def same_namespace(pid: int, name: str) -> bool:
    """Whether a process shares the namespace `name` (of /proc/PID/ns) with this one. Raises FailedPrecondition."""
    try:
        theirs, ours = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
    except OSError as failure:
        raise FailedPrecondition(
            "exec in container", f"pid {pid}", "the container's process has ended"
        ) from failure
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def other_namespaces(pid: int, flags: int) -> int:
    """Of `flags` those whose namespace is not ours already, but for the user namespace, which is joined before all."""
    return sum(
        flag
        for kind, flag in FLAGS.items()
        if flag & flags and kind != "user" and not same_namespace(pid, PROC_NAMES[kind])
    )
