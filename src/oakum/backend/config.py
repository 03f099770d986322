# SPDX-License-Identifier: Apache-2.0
"""What callers ask for: sandbox and container configurations as frozen values.

The fields follow CRI v1, the widest of our front doors; names that CRI abbreviates carry their unit here.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

NamespaceMode = Literal["pod", "container", "node", "target"]
Propagation = Literal["private", "host_to_container", "bidirectional"]
Protocol = Literal["tcp", "udp", "sctp"]
SeccompKind = Literal["runtime_default", "unconfined", "localhost"]

BUILT_IN: Final = "oakum"
"""The runtime handler that is ours, and in the native backend what no name means."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the request and status types: immutable, keyword-only, defaults left out when stored."""


class IdMapping(Struct, frozen=True, kw_only=True):
    """One line of a user namespace's map."""

    host_id: int
    container_id: int
    length: int


class SecurityProfile(Struct, frozen=True, kw_only=True):
    """A seccomp or AppArmor profile: the default, none, or a file on this host."""

    kind: SeccompKind = "runtime_default"
    localhost_ref: str = ""


class SELinuxOptions(Struct, frozen=True, kw_only=True):
    """The parts of an SELinux label."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class NamespaceOptions(Struct, frozen=True, kw_only=True):
    """Which namespaces are the pod's, the container's own, the node's, or another container's."""

    network: NamespaceMode = "pod"
    pid: NamespaceMode = "container"
    ipc: NamespaceMode = "pod"
    uts: NamespaceMode = "pod"
    target_id: str = ""
    user: NamespaceMode = "node"
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class HugepageLimit(Struct, frozen=True, kw_only=True):
    """At most `limit_bytes` of huge pages of `page_size` ("2MB", "1GB")."""

    page_size: str
    limit_bytes: int


class Resources(Struct, frozen=True, kw_only=True):
    """Limits of a container or pod; 0 or empty means "not said"."""

    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpu_shares: int = 0
    memory_limit_bytes: int = 0
    memory_swap_limit_bytes: int = 0
    memory_reservation_bytes: int = 0
    oom_score_adj: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids_limit: int = 0
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: dict[str, str] = {}


class PortMapping(Struct, frozen=True, kw_only=True):
    """A host port that leads to a port of the sandbox; `host_port` 0 means none."""

    container_port: int
    host_port: int = 0
    protocol: Protocol = "tcp"
    host_ip: str = ""


class DnsConfig(Struct, frozen=True, kw_only=True):
    """What the sandbox's resolv.conf says; empty servers and searches mean "as the host"."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Mount(Struct, frozen=True, kw_only=True):
    """A host path, an image or a volume ("": one that goes with the container) seen inside a container.

    The backend says in `image_id` which image it took.
    """

    container_path: str
    host_path: str = ""
    readonly: bool = False
    recursive_read_only: bool = False
    selinux_relabel: bool = False
    propagation: Propagation = "private"
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    image: str = ""
    image_sub_path: str = ""
    image_id: str = ""
    options: tuple[str, ...] = ()
    tmpfs: bool = False
    volume: str | None = None
    no_copy: bool = False  # an empty volume stays empty, whatever the image has there


class Device(Struct, frozen=True, kw_only=True):
    """A host device seen inside a container; `permissions` out of "rwm"."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


class Rlimit(Struct, frozen=True, kw_only=True):
    """One resource limit, such as ("RLIMIT_NOFILE", 1024, 4096)."""

    type: str
    soft: int
    hard: int


class NetworkRequest(Struct, frozen=True, kw_only=True):
    """A network that a sandbox is to be in; `aliases` are names that others of it find the sandbox by."""

    network: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()


class SandboxMetadata(Struct, frozen=True, kw_only=True):
    """What the kubelet calls a pod."""

    name: str
    uid: str = ""
    namespace: str = ""
    attempt: int = 0


class SandboxConfig(Struct, frozen=True, kw_only=True):
    """A pod sandbox as a caller wants it.

    `owner` "container" marks a sandbox made for one container by `oakum run`: it is removed with it and
    pod listings of the command line leave it out. `network` is its first network, `networks` are further ones.
    """

    metadata: SandboxMetadata
    hostname: str = ""
    log_directory: str = ""
    dns: DnsConfig = DnsConfig()
    port_mappings: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    cgroup_parent: str = ""
    sysctls: dict[str, str] = {}
    namespaces: NamespaceOptions = NamespaceOptions()
    privileged: bool = False
    readonly_rootfs: bool = False
    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    selinux: SELinuxOptions | None = None
    overhead: Resources | None = None
    resources: Resources | None = None
    network: str = "default"
    network_aliases: tuple[str, ...] = ()
    networks: tuple[NetworkRequest, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    owner: Literal["", "container"] = ""
    network_of: str = ""  # the container, then the sandbox, whose network this one's container is in


class ContainerMetadata(Struct, frozen=True, kw_only=True):
    """What the kubelet calls a container."""

    name: str
    attempt: int = 0


class ContainerConfig(Struct, frozen=True, kw_only=True):
    """A container as a caller wants it.

    `image` is any reference or id; `command` replaces the image's entrypoint and `args` its command, as in CRI.
    `user` is "uid", "uid:gid", "name" or "name:group"; empty means the image's. `seccomp`, `apparmor` of None
    mean "not said" (unconfined for CRI callers, the default profile for `oakum run`). `restart` is a policy as
    `model.restarts` reads it, for a container with a sandbox of its own; "": none.
    """

    metadata: ContainerMetadata
    image: str
    user_specified_image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = Resources()
    rlimits: tuple[Rlimit, ...] = ()
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    ambient_capabilities: tuple[str, ...] = ()
    privileged: bool = False
    namespaces: NamespaceOptions = NamespaceOptions()
    user: str = ""
    supplemental_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    readonly_rootfs: bool = False
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    selinux: SELinuxOptions | None = None
    stop_signal: str = ""
    init: bool = False
    restart: str = ""


class AuthConfig(Struct, frozen=True, kw_only=True):
    """Credentials for one registry, as CRI and docker's configuration carry them. Never logged."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""
