# SPDX-License-Identifier: Apache-2.0
"""Becoming the container's user: limits, groups, ids, capabilities, no_new_privs and seccomp, in the order that works.

Planned in the parent (`Credentials`), applied in the child (`apply_*`). Nothing of the parent's groups or
capabilities survives. Source: credentials(7), capabilities(7).
"""

from __future__ import annotations

import errno
import os
import stat

from oakum.errors import InvalidArgument, SystemFailure
from oakum.linux import capabilities as kernel
from oakum.linux import procfs, seccomp
from oakum.linux.fd import Fd
from oakum.linux.libc import call_name
from oakum.linux.process import UNLIMITED, get_limit, set_limit, set_no_new_privs
from oakum.model.light import TYPE_CHECKING, NamedTuple, once
from oakum.oci.capabilities import CapabilitySets, masks
from oakum.oci.mappings import drop_groups
from oakum.oci.shape import RLIMITS
from oakum.oci.spec import Process

if TYPE_CHECKING:
    from typing import Final

    from oakum.oci.listener import Report

_ALL: Final = (1 << 64) - 1


class Credentials(NamedTuple):
    """What the process becomes, user apart, which only the mounted image can tell."""

    capabilities: CapabilitySets
    no_new_privs: bool
    seccomp_bpf: bytes
    rlimits: tuple[tuple[int, str, int, int], ...]
    oom_score_adj: int | None
    umask: int
    warnings: tuple[str, ...]
    seccomp_flags: int = 0


@once
def _own_capabilities() -> int:
    """What we can give: asked for once, since whoever plans for others gives nothing of it away itself."""
    return kernel.givable()


def plan_credentials(
    process: Process, seccomp_bpf: bytes, *, own_user_namespace: bool, seccomp_flags: int = 0
) -> Credentials:
    """Read from the spec what the child will apply.

    Raises:
        InvalidArgument: an rlimit with a name or values that cannot be.
    """
    # In a user namespace of its own the process starts with every capability there is.
    available = _ALL if own_user_namespace else _own_capabilities()
    sets, warnings = masks(process.get("capabilities") or {}, available)
    limits: list[tuple[int, str, int, int]] = []
    for limit in process.get("rlimits") or []:
        name = limit["type"]
        number = RLIMITS.get(name)
        if number is None:
            raise InvalidArgument(
                "set resource limit", repr(name), "no such limit", hint="RLIMIT_NOFILE, for example"
            )
        if limit["soft"] > limit["hard"]:
            raise InvalidArgument(
                "set resource limit", name, f"soft {limit['soft']} is above hard {limit['hard']}"
            )
        limits.append((number, name, limit["soft"], limit["hard"]))
    umask = (process.get("user") or {}).get("umask")
    return Credentials(
        capabilities=sets,
        no_new_privs=bool(process.get("noNewPrivileges")),
        seccomp_bpf=seccomp_bpf,
        rlimits=tuple(limits),
        oom_score_adj=process.get("oomScoreAdj"),
        umask=0o022 if umask is None else umask,
        warnings=tuple(warnings),
        seccomp_flags=seccomp_flags,
    )


def apply_limits(credentials: Credentials) -> list[str]:
    """Resource limits; returns warnings for what the host forbids. Raises SystemFailure."""
    warnings: list[str] = []
    for number, name, soft, hard in credentials.rlimits:
        warnings += _set_rlimit(number, name, _limit(soft), _limit(hard))
    return warnings


def _limit(value: int) -> int:
    return UNLIMITED if value > 0x7FFFFFFFFFFFFFFF else value


def _set_rlimit(number: int, name: str, soft: int, hard: int) -> list[str]:
    try:
        set_limit(number, soft, hard)
        return []
    except OSError as failure:
        # Raising a hard limit needs CAP_SYS_RESOURCE, which some hosts withhold even from root.
        if failure.errno != errno.EPERM:
            raise SystemFailure.from_os_error(failure, "setrlimit", name) from failure
    _, highest = get_limit(number)
    set_limit(number, min(soft, highest), min(hard, highest))
    return [f"{name} stays at {_show(highest)}: this host forbids raising it to {_show(hard)}"]


def _show(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)


def set_oom_score_adj(credentials: Credentials, proc_fd: int, who: str = "self") -> list[str]:
    """Set it for this process, or for process `who`; returns a warning where the host forbids it.

    Done with the host's rights: within a user namespace the file is not ours to write. Raises SystemFailure.
    """
    value = credentials.oom_score_adj
    if value is None:
        return []
    try:
        procfs.write(proc_fd, f"{who}/oom_score_adj", str(value))
        return []
    except PermissionError:
        # Lowering it needs CAP_SYS_RESOURCE: keep what we have, as the kubelet does in user namespaces.
        current = procfs.read(proc_fd, f"{who}/oom_score_adj").strip()
        return [f"oom_score_adj stays at {current}: this host forbids lowering it to {value}"]
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "write", f"/proc/{who}/oom_score_adj") from failure


def own_stdio(uid: int) -> None:
    """Give the pipes and terminals at 0, 1 and 2 to the user, so that it can open /dev/stdout anew.

    /dev/null and what cannot change owner (sockets of others, read-only files) stay as they are.
    """
    for number in (0, 1, 2):
        status = os.fstat(number)
        if status.st_uid == uid or stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            continue
        if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == 1:
            continue
        try:
            os.fchown(number, uid, -1)
        except OSError as failure:
            if failure.errno not in (errno.EPERM, errno.EINVAL, errno.EROFS):
                raise SystemFailure.from_os_error(failure, "fchown", f"stdio {number}") from failure


def become(
    credentials: Credentials, uid: int, gid: int, groups: tuple[int, ...], report: Report | None = None
) -> None:
    """Take on the identity for good; `report` gets the filter's notifications. Raises SystemFailure naming the call."""
    sets = credentials.capabilities
    try:
        if credentials.no_new_privs:
            set_no_new_privs()
        elif credentials.seccomp_bpf:
            # Without no_new_privs the filter needs CAP_SYS_ADMIN, which goes away below.
            _load_filter(credentials, report)
        kernel.limit_bounding(sets.bounding)
        kernel.keep_over_setuid(value=True)
        _set_ids(uid, gid, groups)
        kernel.keep_over_setuid(value=False)
        kernel.set_sets(effective=sets.effective, permitted=sets.permitted, inheritable=sets.inheritable)
        kernel.set_ambient(sets.ambient & sets.permitted & sets.inheritable)
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure, call_name(failure) or "become user", f"{uid}:{gid}"
        ) from failure
    os.umask(credentials.umask)


def _set_ids(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    for name, act in (
        ("setgroups", lambda: os.setgroups(groups) if groups else drop_groups()),
        ("setresgid", lambda: os.setresgid(gid, gid, gid)),
        ("setresuid", lambda: os.setresuid(uid, uid, uid)),
    ):
        try:
            act()
        except OSError as failure:
            hint = "is the id mapped in the user namespace?" if failure.errno == errno.EINVAL else ""
            raise SystemFailure.from_os_error(failure, name, f"{uid}:{gid} {groups}", hint=hint) from failure


def _load_filter(credentials: Credentials, report: Report | None) -> None:
    fd = seccomp.load(credentials.seccomp_bpf, flags=credentials.seccomp_flags)
    if report is not None:
        report.send(fd)


def load_late_filter(credentials: Credentials, report: Report | None = None) -> None:
    """With no_new_privs the filter can come last, so that it need not allow what set-up does. Raises SystemFailure."""
    if credentials.no_new_privs and credentials.seccomp_bpf:
        try:
            _load_filter(credentials, report)
        except OSError as failure:
            raise SystemFailure.from_os_error(failure, "seccomp", str(failure.filename or "")) from failure


def set_exec_label(proc_fd: int, process: Process) -> None:
    """Ask the security module for the spec's profile at the next execve. Raises SystemFailure."""
    for path, value in (
        ("thread-self/attr/apparmor/exec", _apparmor(process)),
        ("thread-self/attr/exec", process.get("selinuxLabel") or ""),
    ):
        if value:
            try:
                procfs.write(proc_fd, path, value)
            except OSError as failure:
                raise SystemFailure.from_os_error(
                    failure,
                    "write",
                    f"/proc/{path}",
                    hint=f"does this host have the profile or label {value!r}?",
                ) from failure


def _apparmor(process: Process) -> str:
    profile = process.get("apparmorProfile") or ""
    return f"exec {profile}" if profile and profile != "unconfined" else ""


def duplicate_stdio(stdio: tuple[int, int, int]) -> None:
    """Make the three descriptors 0, 1 and 2, even where they overlap."""
    held = [Fd(os.dup(number)) for number in stdio]
    # dup gives numbers from 3 on only when 0-2 are taken, which Python sees to at its start.
    for number, fd in enumerate(held):
        os.dup2(fd.fileno(), number)
    for fd in held:
        fd.close()
