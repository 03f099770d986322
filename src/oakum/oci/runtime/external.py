# SPDX-License-Identifier: Apache-2.0
"""What in a container is the host's, under names that CRIU's images keep: the same at the dump and at the restore.

A mount's name comes from where the configuration puts it, so the restoring side says for itself what is mounted there.
Source: criu(8), --external; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import hashlib
import os

from oakum.linux.fd import Fd
from oakum.linux.paths import open_in_root
from oakum.model.light import TYPE_CHECKING
from oakum.oci.spec import Spec

if TYPE_CHECKING:
    from typing import Final

NETWORK_KEY: Final = "oakum-network"
# The host's /dev/null over a masked file.
NULL_KEY: Final = "oakum-null"


def mount_key(destination: str) -> str:
    """The name of what the configuration mounts at `destination`."""
    return f"oakum-{hashlib.sha256(os.fsencode(destination)).hexdigest()[:24]}"


def is_bind(mount_type: str, options: tuple[str, ...]) -> bool:
    """Whether a mount of the configuration shows something of the host's."""
    return mount_type in ("", "none", "bind") or "bind" in options or "rbind" in options


def mounts_of(pid: int, spec: Spec) -> dict[str, str]:
    """Mount point in the container → name, for the mounts of a process that are the host's. Raises OSError."""
    found: dict[str, str] = {}
    there = _mounted(pid)
    wanted = [
        (mount.get("destination", ""), mount_key(mount.get("destination", "")))
        for mount in spec.get("mounts") or []
        if is_bind(mount.get("type") or "", tuple(mount.get("options") or ()))
    ]
    masked = (spec.get("linux") or {}).get("maskedPaths") or []
    with Fd(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        for destination, key in [*wanted, *((path, NULL_KEY) for path in masked)]:
            place = _resolved(root.fileno(), destination)
            source = there.get(place)
            if source is None or set(place) & set("[]:") or place in found:
                continue
            if key != NULL_KEY or source.endswith("/null"):
                found[place] = key
    return found


def _resolved(root_fd: int, path: str) -> str:
    """Where a path leads to in the container, seen from its root; "" where nothing is."""
    try:
        with open_in_root(root_fd, path, os.O_PATH) as there:
            return os.readlink(f"/proc/self/fd/{there.fileno()}")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _mounted(pid: int) -> dict[str, str]:
    """Mount point → what of its file system is mounted there."""
    found: dict[str, str] = {}
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ", 5)
            found[_plain(fields[4])] = _plain(fields[3])
    return found


def _plain(text: str) -> str:
    for escape, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, letter)
    return text
