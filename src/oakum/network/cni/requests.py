# SPDX-License-Identifier: Apache-2.0
"""What a plugin is told: its configuration on standard input, and its environment. Pure functions.

CNI specification, sections 2 ("Parameters") and 3 ("Deriving execution configuration"); names of capabilities as in
the project's conventions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from oakum.errors import InvalidArgument
from oakum.network.attachment import AttachmentOptions, PortRequest
from oakum.network.cni.config import Json, NetworkList, Plugin
from oakum.network.cni.results import Command

_CONTAINER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", re.ASCII)
_ARGUMENT_KEY: Final = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_INTERFACE_LIMIT: Final = 15
# A burst that never limits: the rate is what people ask for. The plugin wants bits, fewer than 2^32 bytes of them.
_BURST_BITS: Final = (1 << 31) - 1


class Target(NamedTuple):
    """What ADD, CHECK and DEL are about; `netns_path` is empty when the namespace is gone."""

    container_id: str
    netns_path: str
    interface: str
    arguments: str = ""
    runtime_config: Json = {}


def check_target(target: Target) -> None:
    """Raises InvalidArgument for a container id or interface name that the specification forbids."""
    if not _CONTAINER_ID.fullmatch(target.container_id):
        raise InvalidArgument("attach sandbox", repr(target.container_id[:80]), "not a container id for CNI")
    name = target.interface
    if (
        not 0 < len(name) <= _INTERFACE_LIMIT
        or name in (".", "..")
        or any(c in "/:\0" or c.isspace() for c in name)
    ):
        raise InvalidArgument("attach sandbox", repr(name[:80]), "not a name for an interface")


def standard_input(
    network: NetworkList,
    plugin: Plugin,
    *,
    runtime_config: Mapping[str, Any] | None = None,
    previous: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """The configuration that one plugin of a list gets for one call."""
    told: Json = {**plugin.config, "name": network.name, "cniVersion": network.version}
    wanted = {
        key: value
        for key, value in (runtime_config or {}).items()
        if key in plugin.capabilities and value not in (None, "", [], {})
    }
    if wanted:
        told["runtimeConfig"] = wanted
    if previous is not None:
        told["prevResult"] = dict(previous)
    told.update(extra or {})
    return json.dumps(told).encode()


def environment(
    command: Command, plugin_directories: Sequence[str], target: Target | None, inherited: Mapping[str, str]
) -> dict[str, str]:
    """A plugin's environment: ours, with the parameters of this call and no others."""
    found = {key: value for key, value in inherited.items() if not key.startswith("CNI_")}
    found["CNI_COMMAND"] = command
    found["CNI_PATH"] = ":".join(plugin_directories)
    if target is not None:
        found["CNI_CONTAINERID"] = target.container_id
        found["CNI_IFNAME"] = target.interface
        if target.netns_path:
            found["CNI_NETNS"] = target.netns_path
        if target.arguments:
            found["CNI_ARGS"] = target.arguments
    return found


def version_request(version: str) -> bytes:
    """What VERSION gets on standard input."""
    return json.dumps({"cniVersion": version}).encode()


def valid_attachments(targets: Sequence[tuple[str, str]]) -> Json:
    """What GC is told of attachments (container id, interface) that are alive.

    Under both names: an earlier text of the specification had another one, and plugins follow either.
    """
    listed = [{"containerID": container_id, "ifname": interface} for container_id, interface in targets]
    return {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}


def arguments(sandbox_id: str, options: AttachmentOptions) -> str:
    """CNI_ARGS as plugins for Kubernetes expect them; for others only that they may ignore what they do not know.

    Raises:
        InvalidArgument: a name holds what separates arguments.
    """
    found = {"IgnoreUnknown": "1"}
    if options.pod_name and options.pod_namespace:
        found |= {
            "K8S_POD_NAMESPACE": options.pod_namespace,
            "K8S_POD_NAME": options.pod_name,
            "K8S_POD_INFRA_CONTAINER_ID": sandbox_id,
            "K8S_POD_UID": options.pod_uid,
        }
    found |= options.arguments
    for key, value in found.items():
        if not _ARGUMENT_KEY.fullmatch(key) or not value.isprintable() or set(";=") & set(value):
            raise InvalidArgument("attach sandbox", f"{key[:40]}={value[:80]!r}", "not an argument for CNI")
    return ";".join(f"{key}={value}" for key, value in found.items())


def runtime_config(
    port_mappings: Sequence[PortRequest], options: AttachmentOptions, *, hostname: str = ""
) -> Json:
    """What plugins with the matching capability are told of this sandbox, by name of the capability."""
    found: Json = {
        "portMappings": [
            {
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol,
                **({"hostIP": mapping.host_ip} if mapping.host_ip else {}),
            }
            for mapping in port_mappings
            if mapping.host_port
        ],
        "bandwidth": _bandwidth(options),
        "dns": {
            key: list(value)
            for key, value in (
                ("servers", options.dns_servers),
                ("searches", options.dns_searches),
                ("options", options.dns_options),
            )
            if value
        },
        "ips": list(options.addresses),
        "mac": options.mac,
        "infinibandGUID": options.infiniband_guid,
        "deviceID": options.device_id,
        "aliases": [hostname] if hostname else [],
        "cgroupPath": options.cgroup_path,
        "io.kubernetes.cri.pod-annotations": dict(options.annotations),
    }
    return {key: value for key, value in found.items() if value}


def _bandwidth(options: AttachmentOptions) -> dict[str, int]:
    found: dict[str, int] = {}
    if options.ingress_bits_per_s:
        found |= {"ingressRate": options.ingress_bits_per_s, "ingressBurst": _BURST_BITS}
    if options.egress_bits_per_s:
        found |= {"egressRate": options.egress_bits_per_s, "egressBurst": _BURST_BITS}
    return found
