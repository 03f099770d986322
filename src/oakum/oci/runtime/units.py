# SPDX-License-Identifier: Apache-2.0
"""Who is told of control groups when systemd is to know them: given by the layer that may import what talks to it.

The runtime makes and fills groups itself; a `Units` only hears of it, before and after.
"""

from __future__ import annotations

from oakum.errors import Internal
from oakum.model.light import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from oakum.oci.spec import LinuxResources


class Units(Protocol):
    """The other side. Each raises OakumError."""

    def adopt(self, cgroup_path: str, pid: int, resources: LinuxResources, *, description: str) -> None:
        """The group is there with this process in it."""
        ...

    def change(self, cgroup_path: str, resources: LinuxResources) -> None:
        """The group has new limits."""
        ...

    def release(self, cgroup_path: str) -> None:
        """The group is gone."""
        ...


_units: Units | None = None


def use(units: Units) -> None:
    """Have these told from now on."""
    global _units  # noqa: PLW0603 - one for each process, set at its start
    _units = units


def units() -> Units:
    """Who is told."""
    if _units is None:
        raise Internal("use systemd", "control groups", "nobody here speaks with it")
    return _units
