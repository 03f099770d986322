# SPDX-License-Identifier: Apache-2.0
"""Device nodes and the device cgroup's rules. Owns no reading of /dev: `engine.host` does that.

Spec: OCI runtime-spec 1.2 config-linux.md "Devices", "Allowed Device list".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple


class Node(NamedTuple):
    """A device node to make in the container; `type` is "c" or "b", `mode` its permission bits."""

    path: str
    type: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    permissions: str = "rwm"


# Nodes that every container has; the runtime makes them, here is what the device cgroup must allow.
# (major, minor, access): null, zero, full, random, urandom, tty, console, ptmx, every pts; mknod is harmless alone.
_ALWAYS: Final[tuple[tuple[str, int | None, int | None, str], ...]] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 1, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, None, "rwm"),
)


def nodes(devices: Sequence[Node]) -> list[dict[str, Any]]:
    """The runtime spec's linux.devices."""
    return [
        {
            "path": node.path,
            "type": node.type,
            "major": node.major,
            "minor": node.minor,
            "fileMode": node.mode,
            "uid": node.uid,
            "gid": node.gid,
        }
        for node in devices
    ]


def rules(devices: Sequence[Node], *, privileged: bool) -> list[dict[str, Any]]:
    """The runtime spec's linux.resources.devices: all for the privileged, else what is named and the usual."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    found: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor, access in _ALWAYS:
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        if major is not None:
            rule["major"] = major
        if minor is not None:
            rule["minor"] = minor
        found.append(rule)
    found.extend(
        {"allow": True, "type": n.type, "major": n.major, "minor": n.minor, "access": n.permissions}
        for n in devices
    )
    return found
