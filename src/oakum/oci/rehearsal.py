# SPDX-License-Identifier: Apache-2.0
"""What making a container changes nothing by, played in a process from which others are forked to make them in earnest.

A function that ran before has its caches filled, on pages that all forks share. What is mounted is attached to a root that
is attached nowhere, and gone with it; kernels before 6.15 attach nothing there, and the play ends with that.
"""

from __future__ import annotations

import errno
import os

from oakum.errors import SystemFailure
from oakum.linux import mount as m
from oakum.linux.capabilities import limit_bounding
from oakum.linux.fd import Fd
from oakum.model.light import TYPE_CHECKING
from oakum.oci import command, rootfs
from oakum.oci.cgroups import detect_layout
from oakum.oci.cgroups.devices import assemble
from oakum.oci.cgroups.values import plan_v1, plan_v2
from oakum.oci.credentials import plan_credentials
from oakum.oci.handover import parse_env
from oakum.oci.plan import Plan, Remount, make_plan
from oakum.oci.rights import check_rights, open_proc
from oakum.oci.spec import parse
from oakum.oci.users import home_of, resolve_user

if TYPE_CHECKING:
    from typing import Any, Final

_ALL: Final = (1 << 64) - 1
_PASSWD: Final = b"root:x:0:0:root:/root:/bin/sh\n"


def rehearse(config: dict[str, Any]) -> None:
    """Play the making of a container of `config`. Raises OakumError, OSError."""
    spec = parse(config)
    layout = detect_layout()
    plan = make_plan(spec, bundle="/", layout=layout, cgroup_path="")
    process = spec.get("process") or {}
    plan_credentials(process, b"", own_user_namespace=False)
    check_rights(plan, user_namespace=False)
    open_proc().close()
    resources = (spec.get("linux") or {}).get("resources") or {}
    pure_v2 = layout.mode == "v2"
    (plan_v2 if pure_v2 else plan_v1)(resources)
    if pure_v2:
        assemble(resources.get("devices") or [])
    # What is attached to a tree that is attached nowhere keeps its attributes.
    plan = plan._replace(steps=tuple(step for step in plan.steps if not isinstance(step, Remount)))
    with m.new_filesystem("tmpfs", source="rehearsal") as root:
        _find_user(root)
        try:
            _mount(plan, root)
        except SystemFailure as failure:
            if failure.errno != errno.EINVAL:
                raise
    env = parse_env(process.get("env") or [])
    command.find((process.get("args") or [""])[0], env)
    limit_bounding(_ALL)


def _mount(plan: Plan, root: Fd) -> None:
    builder = rootfs.Builder(
        root.fileno(), rootfs.open_sources(plan), user_namespace=False, wait_for_cgroup=_nothing
    )
    try:
        builder.run(plan.steps)
        builder.run(plan.seal)
    finally:
        builder.close()


def _find_user(root: Fd) -> None:
    os.mkdir("etc", dir_fd=root.fileno())
    fd = os.open("etc/passwd", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=root.fileno())
    try:
        os.write(fd, _PASSWD)
    finally:
        os.close(fd)
    resolve_user(root.fileno(), "0:0", extra_groups=(), strict_groups=False)
    home_of(root.fileno(), 0)


def _nothing() -> None:
    """No group is made."""
