# SPDX-License-Identifier: Apache-2.0
"""Containers and images under the names that docker gives their parts: what templates of `--format` are about. Pure.

Our own names (those of the JSON) are there beside them, for what docker has no word for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from oakum.cli import text
from oakum.model.restarts import parse_policy

if TYPE_CHECKING:
    from oakum.backend.config import ContainerConfig, Mount
    from oakum.backend.status import ContainerStatus, Image, SandboxStatus

_NEVER: Final = "0001-01-01T00:00:00Z"
_COMMAND_LENGTH: Final = 20


def _label_title(name: object) -> str:
    return str(name).rpartition(".")[2].upper()


CONTAINER_TITLES: Final[dict[str, Any]] = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Labels": "LABELS",
    "Label": _label_title,
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Pod": "POD",
}
IMAGE_TITLES: Final[dict[str, Any]] = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
}


def _moment(moment_ns: int) -> str:
    """As docker's lists have it: 2026-11-21 14:28:43 +0000 UTC."""
    return f"{text.iso_time(moment_ns)[:19].replace('T', ' ')} +0000 UTC" if moment_ns else ""


def container_line(
    status: ContainerStatus, sandbox: SandboxStatus | None, *, words: str, ports: str, now_ns: int, full: bool
) -> dict[str, Any]:
    """A container in a list; `words` are its status, `ports` what it publishes."""
    config = status.config
    command = " ".join(status.argv)
    labels = config.labels

    def label(name: object) -> str:
        return labels.get(str(name), "")

    return {
        "ID": status.id if full else text.short_id(status.id),
        "Names": config.metadata.name,
        "Image": config.user_specified_image or config.image,
        "Command": f'"{command if full else text.shorten(command, _COMMAND_LENGTH)}"',
        "CreatedAt": _moment(status.created_at_ns),
        "RunningFor": text.human_age(status.created_at_ns, now_ns=now_ns),
        "Ports": ports,
        "State": text.shown_state(status),
        "Status": words,
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": label,
        "Mounts": ",".join(mount.volume or mount.host_path or mount.image for mount in _shown(config)),
        "LocalVolumes": sum(mount.volume is not None for mount in config.mounts),
        "Networks": ",".join(_networks(sandbox)),
        "Pod": sandbox.config.metadata.name if sandbox and not sandbox.config.owner else "",
    }


def image_lines(
    found: Image, names: Sequence[tuple[str, str]], *, now_ns: int, full: bool
) -> list[dict[str, Any]]:
    """An image in a list, once for each of its names (repository, tag)."""
    digest = found.repo_digests[0].partition("@")[2] if found.repo_digests else "<none>"
    return [
        {
            "ID": found.id if full else text.short_id(found.id),
            "Repository": repository,
            "Tag": tag,
            "Digest": digest,
            "CreatedSince": text.human_age(found.created_at_ns, now_ns=now_ns),
            "CreatedAt": _moment(found.created_at_ns),
            "Size": text.human_size(found.size_bytes),
        }
        for repository, tag in names
    ]


def _shown(config: ContainerConfig) -> list[Mount]:
    return [mount for mount in config.mounts if not mount.tmpfs and mount.volume != ""]


def _networks(sandbox: SandboxStatus | None) -> list[str]:
    if sandbox is None:
        return []
    if sandbox.config.namespaces.network == "node":
        return ["host"]
    if sandbox.config.network_of:
        return [f"container:{sandbox.config.network_of}"]
    return [sandbox.config.network, *(request.network for request in sandbox.config.networks)]


def container(
    found: Mapping[str, Any], status: ContainerStatus, sandbox: SandboxStatus | None
) -> dict[str, Any]:
    """All about a container; `found` is what inspecting it gave."""
    config, spec = status.config, found["spec"]
    places: list[dict[str, Any]] = [_place(place) for place in found["networks"]]
    names = [place["network"] for place in found["networks"]]
    first = places[0] if places else _place({})
    ended = status.state == "exited"
    policy = parse_policy(config.restart)
    return {
        **found,
        "Id": status.id,
        "Created": text.iso_time(status.created_at_ns),
        "Path": status.argv[0] if status.argv else "",
        "Args": list(status.argv[1:]),
        "Name": f"/{config.metadata.name}",
        "Image": status.image_id,
        "LogPath": status.log_path,
        "RestartCount": status.restart_count,
        "Platform": "linux",
        "State": {
            "Status": text.shown_state(status),
            "Running": status.state in ("running", "paused") or status.restarting,  # as docker has it
            "Paused": status.state == "paused",
            "Restarting": status.restarting,
            "OOMKilled": status.reason == "OOMKilled",
            "Pid": status.pid,
            "ExitCode": status.exit_code,
            "Error": status.message if ended else "",
            "StartedAt": text.iso_time(status.started_at_ns) or _NEVER,
            "FinishedAt": text.iso_time(status.finished_at_ns) or _NEVER,
        },
        "Mounts": [_mount(mount) for mount in config.mounts if not mount.tmpfs],
        "Config": {
            "Hostname": spec.get("hostname") or (sandbox.config.hostname if sandbox else ""),
            "User": config.user,
            "Tty": config.tty,
            "OpenStdin": config.stdin,
            "Env": list(spec["process"].get("env") or []),
            "Cmd": list(config.args),
            "Entrypoint": list(config.command),
            "Image": config.user_specified_image or config.image,
            "WorkingDir": spec["process"].get("cwd", ""),
            "Labels": dict(config.labels),
            "StopSignal": status.stop_signal,
        },
        "HostConfig": {
            "NetworkMode": _networks(sandbox)[0] if sandbox else "",
            "PortBindings": _ports(sandbox, bound_only=True),
            "RestartPolicy": {"Name": policy.name, "MaximumRetryCount": policy.max_retries},
            "Privileged": config.privileged,
            "ReadonlyRootfs": config.readonly_rootfs,
            "Memory": status.resources.memory_limit_bytes or 0,
            "CpuShares": status.resources.cpu_shares or 0,
            "CpuQuota": status.resources.cpu_quota_us or 0,
            "CpuPeriod": status.resources.cpu_period_us or 0,
            "CpusetCpus": status.resources.cpuset_cpus,
            "PidsLimit": status.resources.pids_limit or 0,
            "CapAdd": list(config.add_capabilities),
            "CapDrop": list(config.drop_capabilities),
        },
        "NetworkSettings": {
            **first,
            "Ports": _ports(sandbox, bound_only=False),
            "SandboxKey": sandbox.netns_path if sandbox else "",
            "Networks": dict(zip(names, places, strict=True)),
        },
    }


def _place(place: Mapping[str, Any]) -> dict[str, Any]:
    """A place in a network; its IPv4 and IPv6 addresses apart."""

    def split(texts: Sequence[str]) -> tuple[str, str]:
        four = next((each for each in texts if ":" not in each), "")
        return four, next((each for each in texts if ":" in each), "")

    (four, six), (gateway, gateway6) = split(place.get("addresses", ())), split(place.get("gateways", ()))
    return {
        "IPAddress": four.partition("/")[0],
        "IPPrefixLen": int(four.partition("/")[2] or 0),
        "Gateway": gateway,
        "GlobalIPv6Address": six.partition("/")[0],
        "GlobalIPv6PrefixLen": int(six.partition("/")[2] or 0),
        "IPv6Gateway": gateway6,
        "MacAddress": place.get("mac", ""),
        "Aliases": list(place.get("aliases", ())),
    }


def _ports(sandbox: SandboxStatus | None, *, bound_only: bool) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for mapping in sandbox.config.port_mappings if sandbox else ():
        bindings = found.setdefault(f"{mapping.container_port}/{mapping.protocol}", [])
        if mapping.host_port:
            bindings.append({"HostIp": mapping.host_ip or "0.0.0.0", "HostPort": str(mapping.host_port)})  # noqa: S104 - what an empty address means
    return {port: bindings for port, bindings in found.items() if bindings or not bound_only}


def _mount(mount: Mount) -> dict[str, Any]:
    kind = "image" if mount.image else "volume" if mount.volume is not None else "bind"
    return {
        "Type": kind,
        "Name": mount.volume or "",
        "Source": mount.host_path or mount.image,
        "Destination": mount.container_path,
        "Mode": "ro" if mount.readonly else "",
        "RW": not mount.readonly,
        "Propagation": mount.propagation,
    }


def image(found: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """All about an image; `document` is its configuration as its author wrote it, which has docker's names already."""
    written: dict[str, Any] = document.get("config") or {}
    config = {key: value for key, value in written.items() if value is not None}
    rootfs: dict[str, Any] = document.get("rootfs") or {}
    return {
        **found,
        "Id": found["id"],
        "RepoTags": found["repo_tags"],
        "RepoDigests": found["repo_digests"],
        "Created": document.get("created") or "",
        "Author": document.get("author") or "",
        "Architecture": document.get("architecture") or "",
        "Variant": document.get("variant") or "",
        "Os": document.get("os") or "",
        "Size": found["size_bytes"],
        "Config": {
            "User": "",
            "ExposedPorts": {},
            "Env": [],
            "Entrypoint": [],
            "Cmd": [],
            "Volumes": {},
            "WorkingDir": "",
            "Labels": {},
            "StopSignal": "",
            **config,
        },
        "RootFS": {"Type": "layers", "Layers": rootfs.get("diff_ids") or []},
    }
