# SPDX-License-Identifier: Apache-2.0
"""What callers are told: states, listings and statistics as frozen values. Times are nanoseconds since the epoch."""

from __future__ import annotations

from typing import Literal

from oakum.backend.config import ContainerConfig, Resources, SandboxConfig, Struct

SandboxState = Literal["ready", "not_ready"]
ContainerState = Literal["created", "running", "paused", "exited", "unknown"]


class SandboxStatus(Struct, frozen=True, kw_only=True):
    """A sandbox, as found on disk."""

    id: str
    config: SandboxConfig
    state: SandboxState
    created_at_ns: int
    runtime_handler: str = ""
    addresses: tuple[str, ...] = ()
    netns_path: str = ""
    shim_pid: int = 0
    cgroup_path: str = ""


class ContainerUser(Struct, frozen=True, kw_only=True):
    """Whom the first process runs as."""

    uid: int
    gid: int
    supplemental_groups: tuple[int, ...] = ()


class ContainerStatus(Struct, frozen=True, kw_only=True):
    """A container, as found on disk. `resources` are those in force, updates included.

    `restarting`: it has ended, and its policy has it started again, now or after a pause; `restart_count` is how often that was done.
    """

    id: str
    sandbox_id: str
    config: ContainerConfig
    state: ContainerState
    created_at_ns: int
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image_ref: str = ""
    image_id: str = ""
    log_path: str = ""
    resources: Resources = Resources()
    user: ContainerUser | None = None
    stop_signal: str = "SIGTERM"
    pid: int = 0
    argv: tuple[str, ...] = ()
    cgroup_path: str = ""
    bundle_path: str = ""
    restarting: bool = False
    restart_count: int = 0


class SandboxFilter(Struct, frozen=True, kw_only=True):
    """Which sandboxes to list; an empty field matches all. `id` may be a beginning."""

    id: str = ""
    state: SandboxState | None = None
    labels: dict[str, str] = {}


class ContainerFilter(Struct, frozen=True, kw_only=True):
    """Which containers to list; an empty field matches all. Ids may be beginnings."""

    id: str = ""
    sandbox_id: str = ""
    state: ContainerState | None = None
    labels: dict[str, str] = {}


class ContainerEvent(Struct, frozen=True, kw_only=True):
    """Something happened to a container, or to a sandbox (then `id` is the sandbox's).

    `timestamp_ns` is later than that of every event before it; `sandbox` and `containers` are how things stood at
    that time or later, so that nothing that changed afterwards is older. `sandbox` is how it last was if it is gone.
    """

    kind: Literal["created", "started", "stopped", "deleted"]
    id: str
    timestamp_ns: int
    sandbox: SandboxStatus
    containers: tuple[ContainerStatus, ...] = ()


class ExecResult(Struct, frozen=True, kw_only=True):
    """What a finished ExecSync left."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Psi(Struct, frozen=True, kw_only=True):
    """One line of a pressure file: total microseconds and averages in percent."""

    total_us: int
    avg10: float
    avg60: float
    avg300: float


class Pressure(Struct, frozen=True, kw_only=True):
    """Pressure stall information of one resource."""

    some: Psi
    full: Psi


class CpuUsage(Struct, frozen=True, kw_only=True):
    """Cumulative processor time, and the rate over the last interval (None until there are two samples)."""

    timestamp_ns: int
    usage_core_ns: int
    usage_nano_cores: int | None = None
    psi: Pressure | None = None


class MemoryUsage(Struct, frozen=True, kw_only=True):
    """Memory in bytes; `available_bytes` is None without a limit."""

    timestamp_ns: int
    usage_bytes: int
    working_set_bytes: int
    rss_bytes: int
    page_faults: int
    major_page_faults: int
    available_bytes: int | None = None
    limit_bytes: int | None = None
    psi: Pressure | None = None


class SwapUsage(Struct, frozen=True, kw_only=True):
    """Swap in bytes; `available_bytes` is None without a limit."""

    timestamp_ns: int
    usage_bytes: int
    available_bytes: int | None = None


class IoUsage(Struct, frozen=True, kw_only=True):
    """Block device traffic and pressure."""

    timestamp_ns: int
    read_bytes: int = 0
    write_bytes: int = 0
    psi: Pressure | None = None


class FilesystemUsage(Struct, frozen=True, kw_only=True):
    """Bytes and inodes used by a tree, and where its file system is mounted."""

    timestamp_ns: int
    mountpoint: str
    used_bytes: int
    inodes_used: int


class InterfaceUsage(Struct, frozen=True, kw_only=True):
    """Traffic of one interface, seen from inside the sandbox."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int
    rx_packets: int = 0
    tx_packets: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class ContainerStats(Struct, frozen=True, kw_only=True):
    """One container's use of the machine; a part is None where the container does not run."""

    id: str
    config: ContainerConfig
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    swap: SwapUsage | None = None
    io: IoUsage | None = None
    writable_layer: FilesystemUsage | None = None
    pids: int = 0


class SandboxStats(Struct, frozen=True, kw_only=True):
    """One sandbox's use of the machine, and its containers'."""

    id: str
    config: SandboxConfig
    timestamp_ns: int
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    io: IoUsage | None = None
    interfaces: tuple[InterfaceUsage, ...] = ()
    default_interface: str = ""
    pids: int = 0
    containers: tuple[ContainerStats, ...] = ()


class MetricDescriptor(Struct, frozen=True, kw_only=True):
    """A family of metrics: its name, what it means, and the names of its labels."""

    name: str
    help: str
    label_keys: tuple[str, ...]


class Metric(Struct, frozen=True, kw_only=True):
    """One value of a family; `labels` are the values for its label keys, in their order."""

    name: str
    timestamp_ns: int
    counter: bool
    labels: tuple[str, ...]
    value: int


class SandboxMetrics(Struct, frozen=True, kw_only=True):
    """The metrics of a sandbox itself, and of its containers by their ids."""

    id: str
    metrics: tuple[Metric, ...]
    containers: tuple[tuple[str, tuple[Metric, ...]], ...]


class Image(Struct, frozen=True, kw_only=True):
    """An image of the store: its id is the digest of its configuration."""

    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    size_bytes: int = 0
    uid: int | None = None
    username: str = ""
    pinned: bool = False
    created_at_ns: int = 0
    architecture: str = ""
    os: str = ""
    annotations: dict[str, str] = {}


class Condition(Struct, frozen=True, kw_only=True):
    """One line of a runtime's health."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


class HandlerFeatures(Struct, frozen=True, kw_only=True):
    """What one runtime handler can do."""

    name: str
    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


class RuntimeStatus(Struct, frozen=True, kw_only=True):
    """Whether the runtime works, and what it can do; `info` is for people."""

    conditions: tuple[Condition, ...]
    handlers: tuple[HandlerFeatures, ...]
    supplemental_groups_policy: bool = False
    mount_options: bool = False
    info: dict[str, str] = {}


class RestoredSandbox(Struct, frozen=True, kw_only=True):
    """A pod made from a checkpoint; `containers` are names and ids."""

    sandbox_id: str
    containers: tuple[tuple[str, str], ...]
