# SPDX-License-Identifier: Apache-2.0
"""What the spec builder has to know of this machine: kernel, capabilities, device nodes, sources of mounts.

Reads /proc, /sys and /dev; changes nothing but the mount sources that CRI wants made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import msgspec

from oakum.backend.config import Device, Mount
from oakum.engine.spec import capabilities
from oakum.engine.spec.devices import Node
from oakum.errors import InvalidArgument, NotFound, SystemFailure

# Nodes and trees that every container gets its own of, or that make no sense in one.
_OWN_NODES: Final = frozenset(
    {
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/console",
        "/dev/ptmx",
    }
)
_OWN_TREES: Final = frozenset({"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.udev"})  # noqa: S108 - the host's, only left out
_TYPES: Final = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


@cache
def machine() -> str:
    """The machine's name, such as "x86_64"."""
    return os.uname().machine


@cache
def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, _, rest = os.uname().release.partition(".")
    minor = ""
    for character in rest:
        if not character.isdigit():
            break
        minor += character
    return int(major), int(minor or 0)


@cache
def known_capabilities() -> tuple[str, ...]:
    """The capabilities that this kernel knows and we could give: those in our own bounding set.

    Where the host withholds one (CAP_SYS_RESOURCE in many virtual machines), "all" means all there are.
    Source: proc_pid_status(5) CapBnd.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                bounding = int(line.split()[1], 16)
                return tuple(name for number, name in enumerate(capabilities.ALL) if bounding >> number & 1)
    return capabilities.ALL


@cache
def has_apparmor() -> bool:
    """Whether AppArmor is on."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


@cache
def has_selinux() -> bool:
    """Whether SELinux is on."""
    return os.path.exists("/sys/fs/selinux/enforce")


def requested_nodes(devices: Sequence[Device]) -> list[Node]:
    """The nodes that a caller's devices stand for; a directory stands for all nodes in it.

    Raises:
        InvalidArgument: one of them is not a device or a directory, or has bad permissions.
        NotFound: there is none.
    """
    found: list[Node] = []
    for device in devices:
        if not device.permissions or set(device.permissions) - set("rwm"):
            raise InvalidArgument(
                "add device", device.host_path, f"permissions {device.permissions!r} are not of 'rwm'"
            )
        try:
            status = os.stat(device.host_path)
        except OSError as error:
            raise NotFound("add device", device.host_path, error.strerror or str(error)) from error
        if stat.S_ISDIR(status.st_mode):
            found.extend(_tree(device.host_path, device.container_path, device.permissions))
            continue
        node = _node(device.container_path, status, device.permissions)
        if node is None:
            raise InvalidArgument("add device", device.host_path, "neither a device nor a directory")
        found.append(node)
    return found


def all_nodes() -> list[Node]:
    """Every device of this host that is not one that each container has of its own."""
    return [node for node in _tree("/dev", "/dev", "rwm") if node.path not in _OWN_NODES]


def _tree(host_directory: str, container_directory: str, permissions: str) -> Iterator[Node]:
    try:
        entries = sorted(os.scandir(host_directory), key=lambda entry: entry.name)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "list devices", host_directory) from error
    for entry in entries:
        inside = f"{container_directory}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            if entry.path not in _OWN_TREES:
                yield from _tree(entry.path, inside, permissions)
            continue
        try:
            node = _node(inside, entry.stat(follow_symlinks=False), permissions)
        except FileNotFoundError:
            continue  # unplugged meanwhile
        if node is not None:
            yield node


def _node(path: str, status: os.stat_result, permissions: str) -> Node | None:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return Node(
        path,
        kind,
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        permissions,
    )


def check_mount_sources(mounts: Sequence[Mount], *, make_missing: bool) -> list[Mount]:
    """The mounts with links in their sources followed, as mounting them by path would.

    With `make_missing` a source that is not there becomes a directory, as the kubelet relies on for a hostPath
    volume without a type.

    Raises:
        NotFound: a source is missing.
        InvalidArgument: a source is not an absolute path.
    """
    found: list[Mount] = []
    for mount in mounts:
        if mount.tmpfs or mount.image or mount.volume is not None:
            found.append(mount)
            continue
        source = mount.host_path
        if not source.startswith("/") or "\0" in source:
            raise InvalidArgument("mount", repr(source), "the path on the host must be absolute")
        real = os.path.realpath(source)
        if not os.path.lexists(real):
            if not make_missing:
                raise NotFound(
                    "mount", source, "no such file or directory on the host", hint=f"mkdir -p {source}"
                )
            try:
                os.makedirs(real, mode=0o755, exist_ok=True)
            except OSError as error:
                raise SystemFailure.from_os_error(error, "make mount source", source) from error
        found.append(mount if real == source else msgspec.structs.replace(mount, host_path=real))
    return found
