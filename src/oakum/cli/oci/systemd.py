# SPDX-License-Identifier: Apache-2.0
"""`--systemd-cgroup`: what the runtime does to control groups is told to systemd.

D-Bus is loaded when there is something to tell.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from oakum.oci.spec import LinuxResources


class SystemdUnits:
    """Implements `oci.runtime.units.Units` by `engine.systemd`."""

    def adopt(self, cgroup_path: str, pid: int, resources: LinuxResources, *, description: str) -> None:
        """Start a scope around the group."""
        from oakum.engine import systemd  # D-Bus is only for those who use it

        systemd.adopt(cgroup_path, pid, resources, pure_v2=_pure_v2(), description=description)

    def change(self, cgroup_path: str, resources: LinuxResources) -> None:
        """Set the unit's limits."""
        from oakum.engine import systemd  # as in adopt

        systemd.change(cgroup_path, resources, pure_v2=_pure_v2())

    def release(self, cgroup_path: str) -> None:
        """Stop the unit."""
        from oakum.engine import systemd  # as in adopt

        systemd.release(cgroup_path)


def offer() -> None:
    """Containers may be systemd's whatever this command line says: who deletes one need not know."""
    from oakum.oci.runtime.units import use  # behind the parsing of the command line

    use(SystemdUnits())


def _pure_v2() -> bool:
    from oakum.oci.cgroups import detect_layout  # as in adopt

    return detect_layout().mode == "v2"
