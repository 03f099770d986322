# SPDX-License-Identifier: Apache-2.0
"""What Docker is asked to create, from our configurations. Pure, but for looking at this host's devices and profiles.

What Docker has no field for is refused here, or named in the text of `containers` as what we do ourselves.
Source: Docker Engine API v1.41, ContainerCreate.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from oakum.backend.config import ContainerConfig, NamespaceMode, Resources, SandboxConfig, SecurityProfile
from oakum.docker.labels import Labels
from oakum.engine import host
from oakum.engine.spec import capabilities, process
from oakum.engine.spec.mounts import clean
from oakum.engine.spec.sysctls import pod_sysctls
from oakum.errors import InvalidArgument, NotFound, SystemFailure, Unimplemented
from oakum.model.signals import parse_signal, signal_name

PAUSE_SCORE: Final = -998
"""The sandbox's own process is the last of a pod that a machine short of memory shall lose."""
_PROFILE_MAX_BYTES: Final = 8 << 20
_UNNAMEABLE: Final = re.compile(r"[^a-zA-Z0-9.-]+")
_PROPAGATION: Final = {"private": "rprivate", "host_to_container": "rslave", "bidirectional": "rshared"}


class Bind(NamedTuple):
    """A path of this host as Docker shall mount it."""

    source: str
    target: str
    readonly: bool = False
    propagation: str = "rprivate"


def object_name(kind: str, name: str, key: str) -> str:
    """A name for people that is taken when and only when `key` is."""
    readable = _UNNAMEABLE.sub("-", name).strip("-.")[:60]
    return f"oakum_{kind}_{readable}_{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def runtime_name(handler: str) -> str:
    """Docker's name for the OCI runtime of a handler; "" for its default."""
    return "" if handler in ("", "docker") else handler


def sandbox_body(
    config: SandboxConfig, *, image: str, hostname: str, labels: Labels, host_config: Mapping[str, Any]
) -> dict[str, Any]:
    """A pause container. `host_config` is what the caller knows better: its log driver. Raises InvalidArgument."""
    modes = config.namespaces
    user = ""
    if config.run_as_user is not None:
        user = str(config.run_as_user)
        if config.run_as_group is not None:
            user += f":{config.run_as_group}"
    sandbox: dict[str, Any] = {
        "NetworkMode": "host" if modes.network == "node" else "none",
        "IpcMode": "host" if modes.ipc == "node" else "shareable",
        "PidMode": "host" if modes.pid == "node" else "",
        "UTSMode": "host" if modes.uts == "node" else "",
        "Sysctls": pod_sysctls(config),
        "CgroupParent": labels.cgroup_parent,
        "Runtime": runtime_name(labels.handler),
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "GroupAdd": [str(group) for group in config.supplemental_groups],
        "SecurityOpt": [
            "no-new-privileges",
            *_profiles(config.seccomp, config.apparmor, privileged=False),
            *_selinux(config),
        ],
        **host_config,
    }
    body: dict[str, Any] = {
        "Image": image,
        "User": user,
        "Labels": labels.write(),
        "HostConfig": sandbox,
        "StopSignal": "SIGTERM",
    }
    if modes.uts != "node":
        body["Hostname"] = hostname
    return body


class Powers(NamedTuple):
    """The capabilities that this Docker Engine can give, and whether they are all that the kernel has."""

    names: tuple[str, ...]
    all_of_them: bool


class Around(NamedTuple):
    """What a container's body needs beyond its configuration."""

    sandbox_id: str
    sandbox: SandboxConfig
    hostname: str
    labels: Labels
    image_id: str
    command_line: Sequence[str]
    binds: Sequence[Bind]
    user: str
    groups: Sequence[str]
    powers: Powers
    host_config: Mapping[str, Any]


def container_body(config: ContainerConfig, around: Around) -> dict[str, Any]:
    """A container of a pod. Raises InvalidArgument, NotFound, Unimplemented."""
    modes = around.sandbox.namespaces
    shared = f"container:{around.sandbox_id}"
    wanted: dict[str, Any] = {
        "NetworkMode": "host" if modes.network == "node" else shared,
        "IpcMode": "host" if modes.ipc == "node" else shared,
        "PidMode": _pid_mode(config, shared),
        "UTSMode": "host" if modes.uts == "node" else "",
        "CgroupParent": around.labels.cgroup_parent,
        "Runtime": runtime_name(around.labels.handler),
        "Privileged": config.privileged and around.powers.all_of_them,
        "ReadonlyRootfs": config.readonly_rootfs,
        "Mounts": [_bind(bind) for bind in around.binds],
        "Tmpfs": {
            clean(m.container_path): ",".join([*m.options, *(["ro"] if m.readonly else [])])
            for m in config.mounts
            if m.tmpfs
        },
        "Devices": _devices(config),
        "GroupAdd": list(around.groups),
        "Ulimits": [
            {
                "Name": limit["type"].removeprefix("RLIMIT_").lower(),
                "Soft": limit["soft"],
                "Hard": limit["hard"],
            }
            for limit in process.rlimits(config.rlimits)
        ],
        "SecurityOpt": _security(config),
        **limits(config.resources),
        **_capabilities(config, around.powers),
        **around.host_config,
    }
    if config.privileged and not around.powers.all_of_them:
        wanted.update(_privileged_by_parts(around.powers))
        own = {device["PathInContainer"] for device in _devices(config)}
        wanted["Devices"] = _devices(config) + [
            d for d in wanted["Devices"] if d["PathInContainer"] not in own
        ]
    for field, paths in (("MaskedPaths", config.masked_paths), ("ReadonlyPaths", config.readonly_paths)):
        if config.privileged or paths is not None:
            wanted[field] = list(paths or ())
    body: dict[str, Any] = {
        "Image": around.image_id,
        "Entrypoint": list(around.command_line),
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in config.envs],
        "User": around.user,
        "Labels": around.labels.write(),
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Tty": config.tty,
        # A probe of the image's author is not the kubelet's.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": wanted,
    }
    if config.working_dir:
        body["WorkingDir"] = process.working_dir(config.working_dir, "")
    if config.stop_signal:
        body["StopSignal"] = signal_name(parse_signal(config.stop_signal))
    if modes.network == "node" and modes.uts != "node":
        body["Hostname"] = around.hostname
    return body


def limits(resources: Resources) -> dict[str, Any]:
    """What of the limits Docker sets; it is what an update takes, too."""
    found: dict[str, Any] = {
        "CpuPeriod": resources.cpu_period_us,
        "CpuQuota": resources.cpu_quota_us,
        "CpuShares": resources.cpu_shares,
        "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems,
        "Memory": resources.memory_limit_bytes,
        # Without a word on swap none beyond the memory, as the kubelet expects.
        "MemorySwap": resources.memory_swap_limit_bytes or resources.memory_limit_bytes,
        "MemoryReservation": resources.memory_reservation_bytes,
        "PidsLimit": resources.pids_limit,
    }
    return {name: value for name, value in found.items() if value}


def own_limits(resources: Resources) -> Resources:
    """What of the limits Docker has no field for: we write them into the container's cgroup."""
    return Resources(hugepage_limits=resources.hugepage_limits, unified=resources.unified)


def propagation(mode: str) -> str:
    """Docker's word for a mount's propagation."""
    return _PROPAGATION[mode]


def check_sandbox(config: SandboxConfig, *, systemd: bool) -> None:
    """Refuse a sandbox that cannot be meant, or that Docker cannot make. Raises InvalidArgument, Unimplemented."""
    if not config.metadata.name:
        raise InvalidArgument("run sandbox", "metadata.name", "a sandbox needs a name")
    if len(config.hostname) > 64:
        raise InvalidArgument("run sandbox", repr(config.hostname), "a host name has at most 64 characters")
    if config.namespaces.user != "node":
        raise Unimplemented("run sandbox", "user namespace", "Docker has no user namespaces for single pods")
    parent = config.cgroup_parent
    if ".." in parent.split("/") or (parent and not parent.startswith("/") and not _is_slice(parent)):
        raise InvalidArgument("run sandbox", repr(parent), "not a cgroup path or slice")
    if parent and systemd != parent.endswith(".slice"):
        wanted = "slice, as its driver is systemd" if systemd else "path, as its driver is cgroupfs"
        raise InvalidArgument("run sandbox", f"cgroup_parent {parent!r}", f"Docker takes a {wanted}")
    pod_sysctls(config)
    if _says_selinux(config) and not host.has_selinux():
        raise InvalidArgument("create sandbox", "selinux_options", "SELinux is not enabled here")


def check_container(sandbox: SandboxConfig, config: ContainerConfig) -> None:
    """Refuse a container that cannot be meant, or that Docker cannot make. Raises InvalidArgument, Unimplemented."""
    subject = "create container"
    if not config.metadata.name:
        raise InvalidArgument(subject, "metadata.name", "a container needs a name")
    if config.privileged and not sandbox.privileged:
        raise InvalidArgument(subject, repr(config.metadata.name), "its sandbox is not privileged")
    if config.namespaces.pid == "pod" and sandbox.namespaces.pid != "pod":
        raise InvalidArgument(subject, "namespaces.pid", "its sandbox has no pid namespace to share")
    if config.ambient_capabilities:
        raise Unimplemented(subject, "add_ambient_capabilities", "Docker cannot give ambient capabilities")
    if config.apparmor is not None and config.apparmor.kind == "localhost" and not host.has_apparmor():
        raise InvalidArgument(subject, config.apparmor.localhost_ref, "AppArmor is not enabled here")
    if _says_selinux(config) and not host.has_selinux():
        raise InvalidArgument(subject, "selinux_options", "SELinux is not enabled here")
    for mount in config.mounts:
        if mount.uid_mappings or mount.gid_mappings:
            raise Unimplemented(
                subject, f"mount {mount.container_path}", "Docker cannot map the ids of a mount"
            )


def _is_slice(text: str) -> bool:
    return "/" not in text and text.endswith(".slice")


def _says_selinux(config: SandboxConfig | ContainerConfig) -> bool:
    chosen = config.selinux
    return chosen is not None and any((chosen.user, chosen.role, chosen.type, chosen.level))


def _pid_mode(config: ContainerConfig, shared: str) -> str:
    mode: NamespaceMode = config.namespaces.pid
    if mode == "target":
        return f"container:{config.namespaces.target_id}"
    return {"pod": shared, "node": "host"}.get(mode, "")


def _bind(bind: Bind) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": bind.source,
        "Target": bind.target,
        "ReadOnly": bind.readonly,
        # Without a word Docker from 25 on makes all below read-only, too; what shall be so, `mounts` has made so.
        "BindOptions": {
            "Propagation": bind.propagation,
            **({"ReadOnlyNonRecursive": True} if bind.readonly else {}),
        },
    }


def _devices(config: ContainerConfig) -> list[dict[str, str]]:
    host.requested_nodes(config.devices)  # what is none is refused with our words
    return [
        {"PathOnHost": d.host_path, "PathInContainer": d.container_path, "CgroupPermissions": d.permissions}
        for d in config.devices
    ]


def _capabilities(config: ContainerConfig, powers: Powers) -> dict[str, Any]:
    if config.privileged or not (config.add_capabilities or config.drop_capabilities):
        return {}
    added = {capabilities.normalize(name) for name in config.add_capabilities}
    dropped = {capabilities.normalize(name) for name in config.drop_capabilities}
    if "ALL" in added and "ALL" not in dropped:
        chosen = set(powers.names)
    elif "ALL" in dropped:
        chosen = set[str]()
    else:
        chosen = set(capabilities.DEFAULT)
    chosen = (chosen | (added - {"ALL"})) - dropped
    return {"CapDrop": ["ALL"], "CapAdd": sorted(chosen)}


def _privileged_by_parts(powers: Powers) -> dict[str, Any]:
    """What Docker's own switch stands for, where the host withholds a capability and so breaks the switch.

    But one thing: /sys stays read-only until the container mounts it anew.
    """
    return {
        "CapDrop": ["ALL"],
        "CapAdd": list(powers.names),
        "DeviceCgroupRules": ["a *:* rwm"],
        "Devices": [
            {"PathOnHost": node.path, "PathInContainer": node.path, "CgroupPermissions": "rwm"}
            for node in host.all_nodes()
        ],
    }


def _security(config: ContainerConfig) -> list[str]:
    found = _profiles(config.seccomp, config.apparmor, privileged=config.privileged)
    if config.no_new_privs:
        found.append("no-new-privileges")
    return found + _selinux(config)


def _profiles(
    seccomp: SecurityProfile | None, apparmor: SecurityProfile | None, *, privileged: bool
) -> list[str]:
    found: list[str] = []
    if seccomp is None or seccomp.kind == "unconfined" or privileged:
        found.append("seccomp=unconfined")
    elif seccomp.kind == "localhost":
        found.append(f"seccomp={_profile(seccomp.localhost_ref)}")
    if host.has_apparmor() and apparmor is not None and not privileged:
        if apparmor.kind == "unconfined":
            found.append("apparmor=unconfined")
        elif apparmor.kind == "localhost":
            found.append(f"apparmor={apparmor.localhost_ref.removeprefix('localhost/')}")
    return found


def _profile(reference: str) -> str:
    """A seccomp profile as Docker takes it, the JSON text itself. Raises NotFound, InvalidArgument, SystemFailure."""
    path = reference.removeprefix("localhost/")
    if not path.startswith("/"):
        raise InvalidArgument("read seccomp profile", repr(path), "not an absolute path")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_PROFILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound("read seccomp profile", path, "no such file") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument("read seccomp profile", path, str(error)) from error
    except OSError as error:
        raise SystemFailure.from_os_error(error, "read seccomp profile", path) from error
    if len(text) > _PROFILE_MAX_BYTES:
        raise InvalidArgument("read seccomp profile", path, "more than 8 MiB")
    return text


def _selinux(config: SandboxConfig | ContainerConfig) -> list[str]:
    chosen = config.selinux
    if chosen is None:
        return []
    parts = {"user": chosen.user, "role": chosen.role, "type": chosen.type, "level": chosen.level}
    return [f"label={name}:{value}" for name, value in parts.items() if value]
