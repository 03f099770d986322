# SPDX-License-Identifier: Apache-2.0
"""Containers in slices are scopes of systemd, where systemd is the cgroup driver; `engine.systemd` talks to it.

A container whose group has the form slice:prefix:name is one, whoever made it: removing it needs no configuration.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from oakum.engine.context import Context
from oakum.engine.spec.resources import linux_resources
from oakum.engine.store.records import ContainerRecord
from oakum.oci.cgroups.layout import normalise_path

if TYPE_CHECKING:
    from oakum.oci.spec import LinuxResources

CGROUPFS: Final = "cgroupfs"
SYSTEMD: Final = "systemd"
AUTO: Final = "auto"


def booted() -> bool:
    """Whether this machine's init is systemd. Source: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def driver(context: Context) -> str:
    """Who manages control groups: "cgroupfs" or "systemd"."""
    if context.cgroup_driver != AUTO:
        return context.cgroup_driver
    return SYSTEMD if booted() else CGROUPFS


def is_scope(record: ContainerRecord) -> bool:
    """Whether its group is in a slice."""
    return ":" in record.cgroup_path


def adopt(context: Context, record: ContainerRecord, pid: int) -> None:
    """Give the group of a created container to systemd, if it is the driver. Raises SystemFailure, Unavailable."""
    if is_scope(record) and driver(context) == SYSTEMD:
        from oakum.engine import systemd  # D-Bus is only for those who use it

        systemd.adopt(
            normalise_path(record.cgroup_path),
            pid,
            _resources(record),
            pure_v2=context.cgroups.mode == "v2",
            description=f"oakum container {record.config.metadata.name}",
        )


def change(context: Context, record: ContainerRecord, resources: dict[str, Any]) -> None:
    """Tell systemd of new limits. Raises as `adopt`."""
    if is_scope(record) and driver(context) == SYSTEMD:
        from oakum.engine import systemd  # as in adopt
        from oakum.oci.spec import parse_resources  # as in adopt

        systemd.change(
            normalise_path(record.cgroup_path),
            parse_resources(resources),
            pure_v2=context.cgroups.mode == "v2",
        )


def release(record: ContainerRecord) -> None:
    """The group is gone: its unit too. Raises as `adopt`."""
    if is_scope(record) and booted():
        from oakum.engine import systemd  # as in adopt

        systemd.release(normalise_path(record.cgroup_path))


def _resources(record: ContainerRecord) -> LinuxResources:
    from oakum.oci.spec import parse_resources  # as in adopt

    return parse_resources(linux_resources(record.resources)) if record.resources else {}
