# SPDX-License-Identifier: Apache-2.0
"""What the engine asks a shim for, and what it gets: plain values that travel as JSON.

Owns the shapes only; the socket is `oakum.shim.wire`, the meaning is `oakum.shim.supervisor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from oakum.model.rootfs import RootfsSource

if TYPE_CHECKING:
    from oakum.oci.spec import IdMapping

# namespace type of the runtime spec -> name of its pin below DIRECTORY/ns
PIN_NAMES: dict[str, str] = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid", "user": "user"}


class SandboxRequest(NamedTuple):
    """A sandbox to make: its namespaces, its cgroup and its shim.

    `directory` exists already and is absolute. Namespaces of `create_namespaces` ("network", "ipc", "uts",
    "pid", "user") are pinned at directory/ns/{net,ipc,uts,pid,user}. `sysctls` are written inside them.
    `cgroup_path` is made ("": none) with `pod_resources` (OCI linux.resources). `shm_size_bytes` 0 means 64 MiB.
    With `foreign` its containers have a runtime of their own (`ContainerRequest.runtime`), which gets directory/runtime.
    """

    sandbox_id: str
    directory: str
    create_namespaces: tuple[str, ...] = ()
    hostname: str = ""
    sysctls: dict[str, str] = {}
    cgroup_path: str = ""
    pod_resources: dict[str, Any] = {}
    shm_size_bytes: int = 0
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    foreign: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SandboxRequest:
        """The request that `to_dict` described."""
        values: dict[str, Any] = {
            **data,
            "create_namespaces": tuple(data["create_namespaces"]),
            "uid_mappings": tuple(data["uid_mappings"]),
            "gid_mappings": tuple(data["gid_mappings"]),
        }
        return cls(**values)


class RestartRequest(NamedTuple):
    """What is to happen after a container's end: `command` is executed (an absolute path first) where `policy` says so.

    `policy` is text as `model.restarts` reads it, `times` how often it was started again, `delay_s` the last pause before that.
    """

    policy: str
    times: int
    delay_s: float
    command: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RestartRequest:
        """The request that `to_dict` described."""
        values: dict[str, Any] = {**data, "command": tuple(data["command"])}
        return cls(**values)


class ContainerRequest(NamedTuple):
    """A container to create in the sandbox.

    config.json is read from `bundle`, and exit.json is written there before anyone is told of the end.
    A namespace that the spec lists without a path joins the sandbox's own when that is network, ipc, uts or
    user; pid joins only when `target_pid_of` names a container or the spec gives the pin's path.
    `log_path` "" means no log. `seccomp_bpf` is base64 of the program, "" none. `runtime` is the path of a program with
    runc's command line that makes the container, "" for the built-in one; its system call filter is in config.json.
    `images` is a directory of CRIU's images that the container goes on from, "" for a new one. `restart` is None where
    nothing follows the end.
    """

    container_id: str
    bundle: str
    rootfs: RootfsSource | None = None
    user: str = ""
    extra_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    log_path: str = ""
    target_pid_of: str = ""
    seccomp_bpf: str = ""
    runtime: str = ""
    images: str = ""
    restart: RestartRequest | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        values = {**self._asdict(), "rootfs": self.rootfs.to_dict() if self.rootfs else None}
        # Shims of an older version know neither.
        if not self.images:
            del values["images"]
        if self.restart is None:
            del values["restart"]
        else:
            values["restart"] = self.restart.to_dict()
        return values

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ContainerRequest:
        """The request that `to_dict` described."""
        rootfs = data["rootfs"]
        values: dict[str, Any] = {
            **data,
            "rootfs": RootfsSource.from_dict(rootfs) if rootfs else None,
            "extra_groups": tuple(data["extra_groups"]),
        }
        if "restart" in data:
            values["restart"] = RestartRequest.from_dict(data["restart"])
        return cls(**values)


class ExecRequest(NamedTuple):
    """A further process in a container: `process` is the runtime spec's process object.

    What `process` leaves out (capabilities, rlimits, noNewPrivileges ...) is as the container has it.
    `rows` and `columns` are the terminal's first size (0: unset).
    """

    process: dict[str, Any]
    user: str = ""
    extra_groups: tuple[int, ...] = ()
    strict_groups: bool = False
    tty: bool = False
    rows: int = 0
    columns: int = 0
    seccomp_bpf: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ExecRequest:
        """The request that `to_dict` described."""
        values: dict[str, Any] = {**data, "extra_groups": tuple(data["extra_groups"])}
        return cls(**values)


class Created(NamedTuple):
    """A container whose first process waits before execve, or runs when `started_at_ns` is not 0."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    warnings: tuple[str, ...]
    started_at_ns: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Created:
        """The answer that `to_dict` described."""
        values: dict[str, Any] = {
            **data,
            "groups": tuple(data["groups"]),
            "warnings": tuple(data["warnings"]),
        }
        return cls(**values)


class ContainerState(NamedTuple):
    """One container as its shim knows it; `state` is a value of `oakum.shim.lifecycle`.

    `log_error` says why the log could last not be written ("" when it could), `log_lost_bytes` how much
    output is missing from it.
    """

    container_id: str
    pid: int
    state: str
    log_error: str = ""
    log_lost_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self._asdict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ContainerState:
        """The state that `to_dict` described."""
        return cls(**data)
