# SPDX-License-Identifier: Apache-2.0
"""The rows as frozen values. Fields may be added with a default; none may change its meaning.

Phases say what the journal must finish or undo when their worker is dead; everything a caller is told
(running, exited) is derived in `engine.states` from a row and from what the shim left on disk.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from oakum.backend.config import ContainerConfig, NetworkRequest, Resources, SandboxConfig, Struct
from oakum.backend.status import ContainerUser

SandboxPhase = Literal["creating", "ready", "stopping", "stopped", "removing"]
ContainerPhase = Literal["creating", "created", "starting", "started", "removing"]


class SandboxRecord(Struct, frozen=True, kw_only=True):
    """A sandbox. `boot_id`, `shim_pid`, `shim_start` say whether its shim can still be the one we started.

    `runtime_path` is the program of its handler, "" for the built-in runtime: its containers keep to it.
    `networks` is what connecting and disconnecting has made of those in its configuration; None while nothing has.
    """

    id: str
    namespace: str
    name_key: str
    phase: SandboxPhase
    created_at_ns: int
    config: SandboxConfig
    runtime_handler: str = ""
    runtime_path: str = ""
    cgroup_path: str = ""
    owns_cgroup: bool = True
    boot_id: str = ""
    shim_pid: int = 0
    shim_start: int = 0
    addresses: tuple[str, ...] = ()
    has_network: bool = False
    interface: str = ""
    host_interface: str = ""
    warnings: tuple[str, ...] = ()
    networks: tuple[NetworkRequest, ...] | None = None


class ExitFacts(Struct, frozen=True, kw_only=True):
    """How a container ended: `model.exits.ExitRecord`, kept in the row so that listings read no files."""

    exit_code: int
    signal: int
    oom_killed: bool
    started_at_ns: int
    finished_at_ns: int
    reason: str
    message: str = ""


class ContainerRecord(Struct, frozen=True, kw_only=True):
    """A container. `manifest_digest` and `image_mounts` (view key, manifest) keep images from being collected.

    `warnings` is what this host could not do of what was asked for. `restored_from` names the checkpoint that its start
    has it go on from; "" for most containers, and once it has started. The last three
    are about its restart policy, and begin anew when it is started by hand: how often it was started again, how long before
    that was waited, and whether a user stopped it.
    """

    id: str
    namespace: str
    sandbox_id: str
    name_key: str
    phase: ContainerPhase
    created_at_ns: int
    config: ContainerConfig
    image_ref: str = ""
    image_id: str = ""
    manifest_digest: str = ""
    chain_id: str = ""
    image_mounts: tuple[tuple[str, str], ...] = ()
    log_path: str = ""
    resources: Resources = Resources()
    user_text: str = ""
    user: ContainerUser | None = None
    stop_signal: str = "SIGTERM"
    argv: tuple[str, ...] = ()
    cgroup_path: str = ""
    pid: int = 0
    started_at_ns: int = 0
    paused: bool = False
    exit: ExitFacts | None = None
    warnings: tuple[str, ...] = ()
    restored_from: str = ""
    restart_count: int = 0
    restart_delay_s: float = 0.0
    stopped_by_user: bool = False


class ImageRecord(Struct, frozen=True, kw_only=True):
    """An image whose content and layers are all here, with what its containers take over from its configuration."""

    manifest_digest: str
    config_digest: str
    media_type: str = ""
    size_bytes: int = 0
    chain_id: str = ""
    chain_ids: tuple[str, ...] = ()
    layer_digests: tuple[str, ...] = ()
    architecture: str = ""
    os: str = ""
    created_at_ns: int = 0
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()


class ImageName(Struct, frozen=True, kw_only=True):
    """One name of an image in one namespace."""

    namespace: str
    name: str
    manifest_digest: str
    target_digest: str
    created_at_ns: int


class EventRecord(Struct, frozen=True, kw_only=True):
    """Something that happened; `row` is what an object that is gone last was."""

    seq: int
    object: Literal["sandbox", "container"]
    kind: Literal["created", "started", "stopped", "deleted"]
    id: str
    row: SandboxRecord | ContainerRecord | None = None


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """A record or status as plain JSON values."""
    return msgspec.json.decode(msgspec.json.encode(value), type=dict[str, Any])
