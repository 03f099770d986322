# SPDX-License-Identifier: Apache-2.0
"""The runtime-spec's config.json as types, and `parse`, which turns outside JSON into them or says what is wrong where.

What is checked is in `shape`. What the values mean for a kernel is planned in `plan`.
Spec: runtime-spec 1.3, config.md and config-linux.md.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING, TypedDict, cast
from oakum.oci.shape import PROCESS, RESOURCES, SPEC

if TYPE_CHECKING:
    from typing import Any


class IdMapping(TypedDict):
    """`size` ids from `containerID` inside are `hostID` and on outside."""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    """One mount; `type` "bind" or an option "bind"/"rbind" makes it a bind mount of `source`."""

    destination: str
    source: str
    type: str
    options: list[str]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]


class User(TypedDict, total=False):
    """Numeric identity of the process."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]


class Box(TypedDict):
    """Size of a terminal in characters."""

    height: int
    width: int


class Rlimit(TypedDict):
    """A POSIX resource limit ("RLIMIT_NOFILE")."""

    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    """The five capability sets, by name ("CAP_CHOWN")."""

    bounding: list[str]
    effective: list[str]
    permitted: list[str]
    inheritable: list[str]
    ambient: list[str]


class Process(TypedDict, total=False):
    """What is executed and as whom."""

    terminal: bool
    consoleSize: Box
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    selinuxLabel: str
    oomScoreAdj: int
    scheduler: dict[str, Any]
    ioPriority: dict[str, Any]
    execCPUAffinity: dict[str, str]


class Root(TypedDict, total=False):
    """The root file system's directory, relative to the bundle unless absolute."""

    path: str
    readonly: bool


class Namespace(TypedDict, total=False):
    """A namespace to make, or with `path` to join."""

    type: str
    path: str


class Device(TypedDict, total=False):
    """A device node to make."""

    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class DeviceRule(TypedDict, total=False):
    """One line of the device cgroup."""

    allow: bool
    type: str
    major: int
    minor: int
    access: str


class LinuxResources(TypedDict, total=False):
    """Limits; see `oci.cgroups.values` for what becomes of each."""

    devices: list[DeviceRule]
    memory: dict[str, Any]
    cpu: dict[str, Any]
    pids: dict[str, Any]
    blockIO: dict[str, Any]
    hugepageLimits: list[dict[str, Any]]
    unified: dict[str, str]
    network: dict[str, Any]
    rdma: dict[str, dict[str, int]]


class Linux(TypedDict, total=False):
    """The part of the document that only Linux has."""

    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    devices: list[Device]
    cgroupsPath: str
    resources: LinuxResources
    rootfsPropagation: str
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    seccomp: dict[str, Any]
    timeOffsets: dict[str, dict[str, int]]
    netDevices: dict[str, dict[str, str]]
    memoryPolicy: dict[str, Any]
    personality: dict[str, Any]


class Hook(TypedDict, total=False):
    """A program that is run at a point of the container's life; `timeout` in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """The hooks by the point of life where they run; see `oci.hooks`."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Spec(TypedDict, total=False):
    """A whole config.json."""

    ociVersion: str
    root: Root
    process: Process
    hostname: str
    domainname: str
    mounts: list[Mount]
    linux: Linux
    hooks: Hooks
    annotations: dict[str, str]


def parse(data: object) -> Spec:
    """`data` (decoded JSON) as a Spec.

    Raises:
        InvalidArgument: names the member ("$.process.user.uid") and what is wrong with it.
    """
    SPEC(data, "$")
    return cast(Spec, data)


def parse_process(data: object) -> Process:
    """`data` as a process object, for exec. Raises InvalidArgument."""
    PROCESS(data, "$")
    return cast(Process, data)


def parse_resources(data: object) -> LinuxResources:
    """`data` as linux.resources, for update. Raises InvalidArgument."""
    RESOURCES(data, "$")
    return cast(LinuxResources, data)
