# SPDX-License-Identifier: Apache-2.0
"""One container's whole runtime specification, from values that others have looked up. Pure.

Spec: OCI runtime-spec 1.2 config.md, config-linux.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from oakum.backend.config import ContainerConfig, NamespaceOptions, SandboxConfig
from oakum.engine.spec import capabilities, devices, mounts, process, resources

# What Docker and containerd hide or keep from being written, each for what it leaks or changes on the host.
MASKED_PATHS: Final[tuple[str, ...]] = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS: Final[tuple[str, ...]] = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


class ImageFacts(NamedTuple):
    """What of an image's configuration goes into the specification."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Sequence[str] = ()
    working_dir: str = ""


def command_line(config: ContainerConfig, image: ImageFacts) -> tuple[str, ...]:
    """What the container runs. Raises InvalidArgument when that is nothing."""
    return process.argv(config.command, config.args, image.entrypoint, image.cmd)


class Surroundings(NamedTuple):
    """Where the container comes to live. `*_path` are host paths. `seccomp` is for a runtime that is given no program."""

    sandbox: SandboxConfig
    pod_path: str
    hostname: str
    cgroup_path: str
    capabilities: Sequence[str] = capabilities.ALL
    files: dict[str, str] = {}
    volumes: dict[str, str] = {}
    image_views: Mapping[str, Sequence[str]] = {}
    nodes: Sequence[devices.Node] = ()
    cgroup_namespace: bool = False
    apparmor: bool = False
    seccomp: dict[str, Any] | None = None
    network_pod_path: str = ""  # of the pod whose network it is in, where that is not its own


def build(config: ContainerConfig, image: ImageFacts, around: Surroundings) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        InvalidArgument: the configuration contradicts itself.
    """
    resources.check(config.resources)
    chosen = capabilities.effective(
        config.add_capabilities,
        config.drop_capabilities,
        privileged=config.privileged,
        known=around.capabilities,
    )
    planned = _mount_plan(config, around)
    limits = resources.linux_resources(config.resources)
    limits["devices"] = devices.rules(around.nodes, privileged=config.privileged)
    linux: dict[str, Any] = {
        "namespaces": namespaces(config.namespaces, around),
        "cgroupsPath": around.cgroup_path,
        "resources": limits,
        "devices": devices.nodes(around.nodes),
        "maskedPaths": _paths(config.masked_paths, MASKED_PATHS, privileged=config.privileged),
        "readonlyPaths": _paths(config.readonly_paths, READONLY_PATHS, privileged=config.privileged),
    }
    if around.seccomp is not None:
        linux["seccomp"] = around.seccomp
    if planned.rootfs_propagation:
        linux["rootfsPropagation"] = planned.rootfs_propagation
    spec: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": process.process(
            config,
            command_line=command_line(config, image),
            env=process.environment(image.env, config.envs, hostname=around.hostname, tty=config.tty),
            cwd=process.working_dir(config.working_dir, image.working_dir),
            capabilities=capabilities.sets(chosen, config.ambient_capabilities),
        ),
        "root": {"path": "rootfs", "readonly": config.readonly_rootfs},
        "mounts": planned.mounts,
        "linux": linux,
    }
    if not around.apparmor:
        spec["process"].pop("apparmorProfile", None)
    return spec


def namespaces(wanted: NamespaceOptions, around: Surroundings) -> list[dict[str, str]]:
    """Which namespaces are new, which are the pod's; what is not listed is the host's."""
    found: list[dict[str, str]] = [{"type": "mount"}]
    if wanted.pid == "pod":
        found.append({"type": "pid", "path": f"{around.pod_path}/ns/pid"})
    elif wanted.pid != "node":
        # With mode "target" the shim joins the other container's; this entry tells it to join one at all.
        found.append({"type": "pid"})
    # The pod decides on these: a container cannot leave what its pod shares, nor share what it has not.
    pod = around.sandbox.namespaces
    for kind, pin, mode in (
        ("network", "net", pod.network),
        ("ipc", "ipc", pod.ipc),
        ("uts", "uts", pod.uts),
        ("user", "user", pod.user),
    ):
        if mode != "node":
            path = around.network_pod_path if kind == "network" else ""
            found.append({"type": kind, "path": f"{path or around.pod_path}/ns/{pin}"})
    if around.cgroup_namespace:
        found.append({"type": "cgroup"})
    return found


def _mount_plan(config: ContainerConfig, around: Surroundings) -> mounts.MountPlan:
    host_ipc = around.sandbox.namespaces.ipc == "node"
    base = mounts.defaults(
        privileged=config.privileged,
        shm_path="/dev/shm" if host_ipc else f"{around.pod_path}/shm",  # noqa: S108 - the host's own, as asked for
    )
    wanted: list[dict[str, Any]] = []
    for mount in config.mounts:
        if mount.image:
            wanted.append(mounts.image_view(mount, around.image_views[mount.container_path]))
        else:
            wanted.append(mounts.requested(mount))
    extra = mounts.pod_files(around.files, readonly=config.readonly_rootfs)
    users = around.sandbox.namespaces
    extra.extend(mounts.volume(place, source, users) for place, source in around.volumes.items())
    return mounts.plan(base, extra, wanted)


def _paths(said: tuple[str, ...] | None, usual: tuple[str, ...], *, privileged: bool) -> list[str]:
    if said is not None:
        return list(said)
    return [] if privileged else list(usual)
