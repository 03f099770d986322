# SPDX-License-Identifier: Apache-2.0
"""From all options of `oakum run` and `oakum create` to the sandbox and the container that they ask for.

Pure but for `-p` without a host port, which takes a free one, and --env-file, which is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    DnsConfig,
    Mount,
    NamespaceMode,
    NamespaceOptions,
    NetworkRequest,
    PortMapping,
    Resources,
    SandboxConfig,
    SandboxMetadata,
    SecurityProfile,
)
from oakum.cli.flags import hosts, mounts, values, words
from oakum.errors import InvalidArgument
from oakum.model.ids import check_name
from oakum.model.restarts import parse_policy
from oakum.model.signals import parse_signal

# notes of the command line to itself, kept with the container
ANNOTATION_REMOVE: Final = "oakum.cli/remove"
ANNOTATION_STOP_TIMEOUT: Final = "oakum.cli/stop-timeout"
# what the engine reads of a sandbox
ANNOTATION_ADDRESS: Final = "dev.oakum.ip"
ANNOTATION_MAC: Final = "dev.oakum.mac"
_DEFAULT: Final = "default"
_CONTAINER: Final = "container:"
_ALONE: Final = ("host", "none")
_SHM: Final = "/dev/shm"  # noqa: S108 - the container's, where every C library looks for it


class RunRequest(NamedTuple):
    """What is to be made."""

    sandbox: SandboxConfig
    container: ContainerConfig


def build(
    image: str, arguments: tuple[str, ...], options: Mapping[str, Any], *, name: str, cwd: str
) -> RunRequest:
    """The sandbox and container for `options` (click's parameters by name) and a command line behind the image.

    Raises:
        InvalidArgument: an option's text is wrong, or two contradict each other.
    """
    check_name("container", name)
    command, args = _command(options, arguments)
    security = words.parse_security_options(options["security_opt"])
    annotations = words.parse_pairs("--annotation", options["annotation"])
    if options["rm"]:
        annotations[ANNOTATION_REMOVE] = "true"
    restart = parse_policy(options["restart"] or "").to_text()
    if restart and options["rm"]:
        raise InvalidArgument("parse --restart", options["restart"], "contradicts --rm")
    if options["stop_timeout"] is not None:
        annotations[ANNOTATION_STOP_TIMEOUT] = str(options["stop_timeout"])
    labels = words.parse_pairs("--label", options["label"])
    networks = _networks(options)
    namespaces = _namespaces(options, networks)
    privileged = bool(options["privileged"])
    seccomp = security.seccomp or SecurityProfile(kind="unconfined" if privileged else "runtime_default")
    aliases = _aliases(options, networks)
    sandbox = SandboxConfig(
        metadata=SandboxMetadata(name=name),
        hostname=_hostname(options, namespaces),
        dns=_dns(options),
        port_mappings=_ports(options, networks[0]),
        labels=labels,
        annotations={**annotations, **_address(options, networks[0])},
        cgroup_parent=options["cgroup_parent"] or "",
        sysctls=words.parse_pairs("--sysctl", options["sysctl"], value_needed=True),
        namespaces=namespaces,
        privileged=privileged,
        network=networks[0],
        network_aliases=aliases,
        networks=tuple(NetworkRequest(network=network, aliases=aliases) for network in networks[1:]),
        extra_hosts=tuple(hosts.parse_add_host(text) for text in options["add_host"]),
        owner="container",
        network_of=_network_of(options),
    )
    container = ContainerConfig(
        metadata=ContainerMetadata(name=name),
        image=image,
        user_specified_image=image,
        command=command,
        args=args,
        working_dir=_working_dir(options["workdir"]),
        envs=words.merge_env(options["env"], options["env_file"], os.environ),
        mounts=_mounts(options, cwd, namespaces),
        devices=tuple(mounts.parse_device(text) for text in options["device"]),
        labels=labels,
        annotations=annotations,
        stdin=bool(options["interactive"]),
        stdin_once=bool(options["interactive"]) and not options["detach"],
        tty=bool(options["tty"]),
        resources=resources_of(options),
        rlimits=tuple(values.parse_ulimit(text) for text in options["ulimit"]),
        add_capabilities=tuple(words.parse_capability("--cap-add", text) for text in options["cap_add"]),
        drop_capabilities=tuple(words.parse_capability("--cap-drop", text) for text in options["cap_drop"]),
        privileged=privileged,
        namespaces=namespaces,
        user=words.check_user(options["user"]) if options["user"] else "",
        supplemental_groups=tuple(words.parse_group(text) for text in options["group_add"]),
        readonly_rootfs=bool(options["read_only"]),
        no_new_privs=security.no_new_privs,
        seccomp=seccomp,
        apparmor=security.apparmor,
        selinux=security.selinux,
        stop_signal=_stop_signal(options["stop_signal"]),
        init=bool(options["init"]),
        restart=restart,
    )
    return RunRequest(sandbox, container)


def _command(
    options: Mapping[str, Any], arguments: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    entrypoint: str | None = options["entrypoint"]
    if entrypoint is None:
        return (), arguments
    if entrypoint:
        return (entrypoint,), arguments
    if not arguments:
        raise InvalidArgument(
            "parse --entrypoint",
            "''",
            "no command",
            hint="an empty entrypoint needs a command behind the image",
        )
    return arguments, ()


def _namespaces(options: Mapping[str, Any], networks: tuple[str, ...]) -> NamespaceOptions:
    def mode(option: str, usual: NamespaceMode, *also: str) -> NamespaceMode:
        text: str = options[option] or ""
        if text == "host":
            return "node"
        if text in ("", "private", *also):
            return usual
        raise InvalidArgument(
            f"parse --{option}", repr(text), "unknown mode", hint="leave it out, or give host"
        )

    pid = mode("pid", "container")
    if options["init"] and pid == "container":
        # the pod's own init is process 1 then, and reaps; the command is signalled and waited for as ever
        pid = "pod"
    return NamespaceOptions(
        network="node" if networks == ("host",) else "pod",
        pid=pid,
        ipc=mode("ipc", "pod", "shareable"),
        uts=mode("uts", "pod"),
    )


def _networks(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The networks that were asked for, the first one first."""
    chosen: tuple[str, ...] = tuple(dict.fromkeys(options["network"])) or (_DEFAULT,)
    for alone in chosen:
        if (alone in _ALONE or alone.startswith(_CONTAINER)) and len(chosen) > 1:
            raise InvalidArgument("parse --network", alone, "contradicts a further --network")
    return ("none",) if next(iter(chosen)).startswith(_CONTAINER) else chosen


def _network_of(options: Mapping[str, Any]) -> str:
    """The container whose network it is to be in; "" for none."""
    chosen: str = next(iter(options["network"]), "")
    if not chosen.startswith(_CONTAINER):
        return ""
    name = chosen.removeprefix(_CONTAINER)
    if not name:
        raise InvalidArgument(
            "parse --network", repr(chosen), "no container", hint="write --network container:NAME"
        )
    for option in ("hostname", "dns", "dns_search", "dns_option", "add_host"):
        if options[option]:
            raise InvalidArgument(
                f"parse --{option.replace('_', '-')}",
                str(options[option]),
                f"contradicts --network {chosen}",
                hint=f"say it of {name}, whose network and files in /etc it shares",
            )
    return name


def _aliases(options: Mapping[str, Any], networks: tuple[str, ...]) -> tuple[str, ...]:
    aliases = tuple(hosts.check_host_name(text, "--network-alias") for text in options["network_alias"])
    if aliases and set(networks) <= {_DEFAULT, *_ALONE}:
        raise InvalidArgument(
            "parse --network-alias",
            aliases[0],
            f"on network {networks[0]} containers do not find each other by name",
            hint="make a network with oakum network create, and choose it with --network",
        )
    return aliases


def _hostname(options: Mapping[str, Any], namespaces: NamespaceOptions) -> str:
    name: str = options["hostname"] or ""
    if not name:
        return ""
    if namespaces.uts == "node":
        raise InvalidArgument("parse --hostname", repr(name), "contradicts --uts host")
    return hosts.check_host_name(name)


def _dns(options: Mapping[str, Any]) -> DnsConfig:
    return DnsConfig(
        servers=tuple(hosts.check_name_server(text) for text in options["dns"]),
        searches=tuple(options["dns_search"]),
        options=tuple(options["dns_option"]),
    )


def _address(options: Mapping[str, Any], network: str) -> dict[str, str]:
    """The chosen address and MAC, as annotations of the sandbox."""
    addresses = ",".join(filter(None, (options.get("ip"), options.get("ip6"))))
    chosen = {ANNOTATION_ADDRESS: addresses, ANNOTATION_MAC: options.get("mac_address")}
    found = {name: str(value) for name, value in chosen.items() if value}
    if found and network in _ALONE:
        raise InvalidArgument(
            "parse option", "--ip, --mac-address", f"contradicts --network {options['network'][0]}"
        )
    return found


def _ports(options: Mapping[str, Any], network: str) -> tuple[PortMapping, ...]:
    ports = [mapping for text in options["publish"] for mapping in hosts.parse_publish(text)]
    if ports and network in _ALONE:
        raise InvalidArgument(
            "parse --publish",
            repr(options["publish"][0]),
            f"contradicts --network {options['network'][0]}",
            hint="ports are published from networks of containers only",
        )
    return hosts.assign_free_ports(ports)


def _working_dir(text: str | None) -> str:
    if text and not text.startswith("/"):
        raise InvalidArgument("parse --workdir", repr(text), "not an absolute path", hint="begin it with /")
    return text or ""


def _mounts(options: Mapping[str, Any], cwd: str, namespaces: NamespaceOptions) -> tuple[Mount, ...]:
    found = [mounts.parse_volume(text, cwd=cwd) for text in options["volume"]]
    found += [mounts.parse_mount(text, cwd=cwd) for text in options["mount"]]
    found += [mounts.parse_tmpfs(text) for text in options["tmpfs"]]
    seen: set[str] = set()
    for mount in found:
        if mount.container_path in seen:
            raise InvalidArgument("parse --volume", repr(mount.container_path), "two mounts on one path")
        seen.add(mount.container_path)
    if options["shm_size"] and _SHM not in seen:
        if namespaces.ipc == "node":
            raise InvalidArgument("parse --shm-size", options["shm_size"], "contradicts --ipc host")
        shm_bytes = values.parse_size("--shm-size", options["shm_size"])
        found.append(
            Mount(
                container_path=_SHM,
                tmpfs=True,
                options=(f"size={shm_bytes}", "mode=1777", "nosuid", "nodev", "noexec"),
            )
        )
    return tuple(found)


def resources_of(options: Mapping[str, Any]) -> Resources:
    """The limits among `options`; `oakum update` has the same.

    Raises:
        InvalidArgument: an option's text is wrong, or two contradict each other.
    """
    memory = values.parse_size("--memory", options["memory"]) if options["memory"] else 0
    reservation = options["memory_reservation"]
    quota = values.parse_cpus(options["cpus"]) if options["cpus"] else 0
    if quota and options["cpu_quota"]:
        raise InvalidArgument(
            "parse --cpus", repr(options["cpus"]), "contradicts --cpu-quota", hint="give one of them"
        )
    period = options["cpu_period"] or (values.CPU_PERIOD_US if quota or options["cpu_quota"] else 0)
    return Resources(
        cpu_period_us=period,
        cpu_quota_us=(quota * period // values.CPU_PERIOD_US) if quota else options["cpu_quota"],
        cpu_shares=options["cpu_shares"],
        memory_limit_bytes=memory,
        memory_swap_limit_bytes=values.parse_swap(memory, options["memory_swap"])
        if options["memory_swap"]
        else 0,
        memory_reservation_bytes=values.parse_size("--memory-reservation", reservation) if reservation else 0,
        oom_score_adj=options["oom_score_adj"],
        cpuset_cpus=values.parse_cpu_set("--cpuset-cpus", options["cpuset_cpus"] or ""),
        cpuset_mems=values.parse_cpu_set("--cpuset-mems", options["cpuset_mems"] or ""),
        pids_limit=options["pids_limit"],
    )


def _stop_signal(text: str | None) -> str:
    if not text:
        return ""
    parse_signal(text)
    return text
