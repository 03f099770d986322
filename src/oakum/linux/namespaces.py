# SPDX-License-Identifier: Apache-2.0
"""Namespaces by the names the runtime-spec gives them: flags, making, joining. Source: namespaces(7)."""

from __future__ import annotations

from oakum.linux.libc import bind, c_int
from oakum.model.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_NEWTIME: Final = 0x00000080

# Spec: runtime-spec 1.2, config-linux "namespaces".
FLAGS: Final[dict[str, int]] = {
    "mount": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "time": CLONE_NEWTIME,
}

# runtime-spec name → file name in /proc/PID/ns
PROC_NAMES: Final[dict[str, str]] = {
    "mount": "mnt",
    "cgroup": "cgroup",
    "uts": "uts",
    "ipc": "ipc",
    "user": "user",
    "pid": "pid",
    "network": "net",
    "time": "time",
}

_unshare = bind("unshare", c_int)
_setns = bind("setns", c_int, c_int)


def flags_of(kinds: tuple[str, ...] | list[str]) -> int:
    """The clone flags of several namespaces. Raises KeyError for an unknown name."""
    flags = 0
    for kind in kinds:
        flags |= FLAGS[kind]
    return flags


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones.

    Source: unshare(2). Raises OSError.
    """
    _unshare(flags, target=_describe(flags))


def setns(fd: int, flags: int = 0, *, target: str = "") -> None:
    """Join the namespace (or, with a pidfd and several flags, the namespaces) of `fd`.

    Source: setns(2). Raises OSError.
    """
    _setns(fd, flags, target=target or _describe(flags))


def _describe(flags: int) -> str:
    return ",".join(kind for kind, flag in FLAGS.items() if flags & flag)
