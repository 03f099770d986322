# SPDX-License-Identifier: Apache-2.0
"""Whether pods can have users of their own here, and which mappings they may ask for.

Source: user_namespaces(7); mount_setattr(2): a root file system is id-mapped, for which overlay needs kernel 5.19.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

from oakum.backend.config import IdMapping, NamespaceOptions
from oakum.engine import host
from oakum.engine.storage import storing
from oakum.errors import InvalidArgument, Unimplemented
from oakum.model.rootfs import RootfsSource

_NEEDED = (5, 19)
# What /proc/PID/uid_map takes. Source: user_namespaces(7).
_LINES = 340
_ID_LIMIT = 2**32 - 1


@cache
def why_not() -> str:
    """Why this host has no user namespaces for pods; "" when it has."""
    if host.kernel_version() < _NEEDED:
        return f"kernel {os.uname().release} cannot map the ids of an overlay (5.19 can)"
    try:
        with open("/proc/sys/user/max_user_namespaces", encoding="ascii") as file:
            if int(file.read()) == 0:
                return "sysctl user.max_user_namespaces is 0"
    except FileNotFoundError:
        return "this kernel has no user namespaces"
    return ""


def check(namespaces: NamespaceOptions) -> None:
    """Refuse what cannot become the users of a pod.

    Raises:
        Unimplemented: this host has none for pods.
        InvalidArgument: the mappings contradict themselves, or leave out root.
    """
    if reason := why_not():
        raise Unimplemented("run sandbox", "user namespace", reason)
    if namespaces.network == "node" or namespaces.ipc == "node" or namespaces.pid == "node":
        raise InvalidArgument(
            "run sandbox",
            "user namespace",
            "a pod with users of its own cannot use the host's other namespaces",
        )
    for name, mappings in (
        ("uid_mappings", namespaces.uid_mappings),
        ("gid_mappings", namespaces.gid_mappings),
    ):
        _check_mappings(name, mappings)


def own_upper(source: RootfsSource, namespaces: NamespaceOptions) -> None:
    """Give the directory that a container writes to, and with it its "/", to root of its pod's users. Raises SystemFailure."""
    if namespaces.user != "pod" or not source.lower:
        return
    uid, gid = (
        next(m.host_id for m in mappings if m.container_id == 0)
        for mappings in (namespaces.uid_mappings, namespaces.gid_mappings)
    )
    with storing("own root file system", source.upper):
        os.chown(source.upper, uid, gid, follow_symlinks=False)


def _check_mappings(name: str, mappings: Sequence[IdMapping]) -> None:
    if not 0 < len(mappings) <= _LINES:
        raise InvalidArgument("run sandbox", name, f"{len(mappings)} lines, 1 to {_LINES} can be set")
    if not any(m.container_id == 0 for m in mappings):
        raise InvalidArgument("run sandbox", name, "no line begins with the container's 0")
    for side in ("container_id", "host_id"):
        end = 0
        for first, length in sorted((getattr(m, side), m.length) for m in mappings):
            if length < 1 or first < 0 or first + length > _ID_LIMIT:
                raise InvalidArgument("run sandbox", name, f"{first} with length {length} is no range of ids")
            if first < end:
                raise InvalidArgument("run sandbox", name, f"two lines have {side} {first}")
            end = first + length
