# SPDX-License-Identifier: Apache-2.0
"""What is mounted where in a container, in which order. Owns no check against the host: `engine.host` does that.

Spec: OCI runtime-spec 1.2 config.md "Mounts"; CRI Mount, MountPropagation.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from oakum.backend.config import IdMapping, Mount, NamespaceOptions
from oakum.errors import InvalidArgument
from oakum.oci import spec

_PROPAGATION: Final = {"private": "rprivate", "host_to_container": "rslave", "bidirectional": "rshared"}
# What CRI's mount_options may say: attributes of one mount, not of its file system. Source: mount_setattr(2).
_OPTIONS: Final = frozenset(
    {
        "exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "relatime", "norelatime",
        "strictatime", "nostrictatime", "diratime", "nodiratime", "symfollow", "nosymfollow",
    }
)  # fmt: skip
_SHM_DEFAULT = "65536k"


class MountPlan(NamedTuple):
    """The mounts in order, and the propagation that the root needs for them."""

    mounts: list[dict[str, Any]]
    rootfs_propagation: str


def defaults(*, privileged: bool, shm_path: str) -> list[dict[str, Any]]:
    """The file systems that every container has.

    `shm_path` is the pod's shared memory; "" gives the container its own.
    """
    access = "rw" if privileged else "ro"
    hard = ["nosuid", "noexec", "nodev"]
    shm: dict[str, Any] = (
        {"destination": "/dev/shm", "type": "bind", "source": shm_path, "options": ["rbind", *hard, "rw"]}  # noqa: S108 - the container's place for the pod's memory
        if shm_path
        else {
            "destination": "/dev/shm",  # noqa: S108 - the container's own
            "type": "tmpfs",
            "source": "shm",
            "options": [*hard, "mode=1777", f"size={_SHM_DEFAULT}"],
        }
    )
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": hard},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        shm,
        # A mount of this type shows the queues of the IPC namespace that it is made in, the pod's or the host's.
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": hard},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*hard, access]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*hard, "relatime", access],
        },
    ]


def pod_files(files: dict[str, str], *, readonly: bool) -> list[dict[str, Any]]:
    """The sandbox's own files (container path → host path), such as /etc/hosts."""
    return [
        {
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": ["rbind", "rprivate", "ro" if readonly else "rw"],
        }
        for destination, source in files.items()
    ]


def volume(destination: str, source: str, users: NamespaceOptions) -> dict[str, Any]:
    """An anonymous directory, which belongs to the pod's own users where it has some."""
    found: dict[str, Any] = {
        "destination": clean(destination),
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", "rw"],
    }
    if users.user == "pod":
        found["uidMappings"] = id_mappings(users.uid_mappings)
        found["gidMappings"] = id_mappings(users.gid_mappings)
    return found


def image_view(mount: Mount, directories: Sequence[str]) -> dict[str, Any]:
    """A read-only view of an image's layers, topmost first, or of one place in them.

    Raises:
        InvalidArgument: the mount asks for what an image cannot be.
    """
    destination = mount.container_path
    if mount.propagation != "private":
        raise InvalidArgument("mount image", mount.image, "its propagation can only be private")
    options = checked_options(mount)
    hard = [o for o in ("nosuid", "nodev") if o not in options]
    if len(directories) == 1:
        return {
            "destination": clean(destination),
            "type": "bind",
            "source": directories[0],
            "options": ["bind", "rprivate", "ro", *hard, *options],
        }
    for directory in directories:
        if set(directory) & {":", ",", "\\"}:
            raise InvalidArgument("mount image", directory, "the root directory's path has ':', ',' or '\\'")
    return {
        "destination": clean(destination),
        "type": "overlay",
        "source": "overlay",
        "options": [f"lowerdir={':'.join(directories)}", "ro", *hard, *options],
    }


def requested(mount: Mount) -> dict[str, Any]:
    """A caller's mount.

    Raises:
        InvalidArgument: it says things that exclude each other.
    """
    destination = clean(mount.container_path)
    if mount.tmpfs:
        options = [*mount.options] or ["nosuid", "nodev", "noexec", "mode=1777"]
        if mount.readonly:
            options.append("ro")
        return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    if mount.recursive_read_only and (not mount.readonly or mount.propagation != "private"):
        raise InvalidArgument(
            "mount", destination, "recursive read-only needs a read-only mount with private propagation"
        )
    options = ["rbind", _PROPAGATION[mount.propagation]]
    if mount.recursive_read_only:
        options.append("rro")
    options.append("ro" if mount.readonly else "rw")
    options.extend(checked_options(mount))
    found: dict[str, Any] = {
        "destination": destination,
        "type": "bind",
        "source": mount.host_path,
        "options": options,
    }
    if mount.uid_mappings or mount.gid_mappings:
        found["uidMappings"] = id_mappings(mount.uid_mappings)
        found["gidMappings"] = id_mappings(mount.gid_mappings)
    return found


def checked_options(mount: Mount) -> list[str]:
    """The further options of a mount, each once.

    Raises:
        InvalidArgument: one of them is none that a mount of its own can have, or undoes another.
    """
    found: list[str] = []
    for option in mount.options:
        if option not in _OPTIONS:
            raise InvalidArgument(
                "mount",
                mount.container_path,
                f"option {option!r} cannot be given",
                hint=f"these can: {', '.join(sorted(_OPTIONS))}",
            )
        other = option.removeprefix("no") if option.startswith("no") else f"no{option}"
        if other in mount.options and other in _OPTIONS:
            raise InvalidArgument("mount", mount.container_path, f"{option} and {other} exclude each other")
        if option not in found:
            found.append(option)
    return found


def id_mappings(mappings: Sequence[IdMapping]) -> list[spec.IdMapping]:
    """The runtime spec's form of a user namespace's map."""
    return [{"containerID": m.container_id, "hostID": m.host_id, "size": m.length} for m in mappings]


def plan(
    base: Sequence[dict[str, Any]], extra: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]
) -> MountPlan:
    """All mounts in an order that works: `base` as it is, then the rest by depth.

    A caller's mount replaces any other at the same place, and every default below a place it covers
    (a host /dev brings its own pts).
    """
    places: dict[str, dict[str, Any]] = {}
    for mount in wanted:
        if mount["destination"] in places:
            raise InvalidArgument("mount", mount["destination"], "two mounts at one place")
        places[mount["destination"]] = mount
    kept = [m for m in base if not _covered(m["destination"], places)]
    later = [m for m in extra if m["destination"] not in places] + list(wanted)
    later.sort(key=lambda m: m["destination"].count("/") if m["destination"] != "/" else 0)
    options = {option for mount in wanted for option in mount["options"]}
    propagation = "rshared" if "rshared" in options else "rslave" if "rslave" in options else ""
    return MountPlan(kept + later, propagation)


def _covered(destination: str, places: dict[str, dict[str, Any]]) -> bool:
    return any(destination == place or destination.startswith(place + "/") for place in places)


def clean(path: str) -> str:
    """An absolute path inside a container, in its shortest spelling.

    Raises:
        InvalidArgument: it is relative, empty, or the root itself.
    """
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument("mount", repr(path), "the path in the container must be absolute")
    found = "/" + posixpath.normpath(path).lstrip("/")
    if found == "/":
        raise InvalidArgument("mount", repr(path), "nothing can be mounted over the container's root")
    return found
