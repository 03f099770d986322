# SPDX-License-Identifier: Apache-2.0
"""Capability names to bit masks, with what this host cannot grant taken out and said so. Pure.

Source: linux/capability.h for the numbers.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci.spec import Capabilities

if TYPE_CHECKING:
    from typing import Final

# In the kernel's order: the index is the number of the capability.
NAMES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}


class CapabilitySets(NamedTuple):
    """The five sets as bit masks."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0


def masks(capabilities: Capabilities, available: int) -> tuple[CapabilitySets, list[str]]:
    """The sets as masks within `available`, and warnings about what had to be left out.

    A name the kernel or this host does not have is left out, not refused: images and tools ask for all there are.
    """
    unknown: set[str] = set()
    missing: set[str] = set()

    def mask(names: list[str] | None) -> int:
        total = 0
        for name in names or ():
            number = _NUMBERS.get(name.upper())
            if number is None:
                unknown.add(name)
            elif not available >> number & 1:
                missing.add(name)
            else:
                total |= 1 << number
        return total

    sets = CapabilitySets(*(mask(capabilities.get(kind)) for kind in CapabilitySets._fields))
    warnings = [f"capability {name} is not granted: unknown" for name in sorted(unknown)]
    warnings += [f"capability {name} is not granted: this host lacks it" for name in sorted(missing)]
    return sets, warnings
