# SPDX-License-Identifier: Apache-2.0
"""Pod sandboxes: configuration, filter, status."""

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import (
    MAX_ID,
    absolute_path,
    ids,
    ip_address,
    known,
    no_parent,
    one_line,
    present,
    refusal,
    within,
)
from oakum.api.cri.convert.enums import (
    GROUP_POLICIES,
    PROTOCOL_NUMBERS,
    PROTOCOLS,
    SANDBOX_STATE_NUMBERS,
    SANDBOX_STATES,
)
from oakum.api.cri.convert.resources import read_resources, write_resources
from oakum.api.cri.convert.security import (
    read_namespaces,
    read_old_profile,
    read_profile,
    read_selinux,
    write_namespaces,
    write_profile,
    write_selinux,
)
from oakum.backend.config import DnsConfig, PortMapping, SandboxConfig, SandboxMetadata
from oakum.backend.status import SandboxFilter, SandboxStatus

_MAX_HOSTNAME = 64  # sethostname(2)


def read_sandbox_config(message: pb.PodSandboxConfig, field: str = "config") -> SandboxConfig:
    """The pod that a client wants.

    Raises:
        InvalidArgument: no metadata or name, or a value that cannot be meant.
    Spec: CRI v1 PodSandboxConfig.
    """
    linux, inside = message.linux, f"{field}.linux"
    context, where = linux.security_context, f"{field}.linux.security_context"
    seccomp = (
        read_profile(context.seccomp, f"{where}.seccomp", is_path=True)
        if context.HasField("seccomp")
        else read_old_profile(context.seccomp_profile_path, f"{where}.seccomp_profile_path", is_path=True)
    )
    apparmor = (
        read_profile(context.apparmor, f"{where}.apparmor", is_path=False)
        if context.HasField("apparmor")
        else None
    )
    if context.HasField("run_as_group") and not context.HasField("run_as_user"):
        raise refusal(f"{where}.run_as_group", "a group needs run_as_user")
    return SandboxConfig(
        metadata=_read_metadata(message, f"{field}.metadata"),
        hostname=_read_hostname(message.hostname, f"{field}.hostname"),
        log_directory=no_parent(f"{field}.log_directory", _absolute_or_empty(message, field)),
        dns=_read_dns(message.dns_config, f"{field}.dns_config"),
        port_mappings=tuple(
            _read_port(m, f"{field}.port_mappings[{i}]") for i, m in enumerate(message.port_mappings)
        ),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        cgroup_parent=no_parent(f"{inside}.cgroup_parent", linux.cgroup_parent),
        sysctls=dict(linux.sysctls),
        namespaces=read_namespaces(context.namespace_options, f"{where}.namespace_options", of_sandbox=True),
        privileged=context.privileged,
        readonly_rootfs=context.readonly_rootfs,
        run_as_user=_read_id(context, "run_as_user", where),
        run_as_group=_read_id(context, "run_as_group", where),
        supplemental_groups=ids(f"{where}.supplemental_groups", context.supplemental_groups),
        strict_groups=known(
            f"{where}.supplemental_groups_policy", GROUP_POLICIES, context.supplemental_groups_policy
        ),
        seccomp=seccomp,
        apparmor=apparmor,
        selinux=read_selinux(context.selinux_options) if context.HasField("selinux_options") else None,
        overhead=read_resources(linux.overhead, f"{inside}.overhead", zero_score_is_said=False)
        if linux.HasField("overhead")
        else None,
        resources=read_resources(linux.resources, f"{inside}.resources", zero_score_is_said=False)
        if linux.HasField("resources")
        else None,
    )


def _read_metadata(message: pb.PodSandboxConfig, field: str) -> SandboxMetadata:
    if not message.HasField("metadata"):
        raise refusal(field, "missing")
    metadata = message.metadata
    return SandboxMetadata(
        name=present(f"{field}.name", metadata.name),
        uid=metadata.uid,
        namespace=metadata.namespace,
        attempt=metadata.attempt,
    )


def _read_hostname(text: str, field: str) -> str:
    one_line(field, (text,))
    if len(text.encode()) > _MAX_HOSTNAME:
        raise refusal(field, f"longer than {_MAX_HOSTNAME} bytes")
    if "/" in text or " " in text:
        raise refusal(field, f"{text!r} is not a host name")
    return text


def _absolute_or_empty(message: pb.PodSandboxConfig, field: str) -> str:
    path = message.log_directory
    return absolute_path(f"{field}.log_directory", path) if path else ""


def _read_dns(message: pb.DNSConfig, field: str) -> DnsConfig:
    return DnsConfig(
        servers=one_line(f"{field}.servers", message.servers),
        searches=one_line(f"{field}.searches", message.searches),
        options=one_line(f"{field}.options", message.options),
    )


def _read_port(message: pb.PortMapping, field: str) -> PortMapping:
    return PortMapping(
        container_port=within(f"{field}.container_port", message.container_port, 1, 65535),
        host_port=within(f"{field}.host_port", message.host_port, 0, 65535),
        protocol=known(f"{field}.protocol", PROTOCOLS, message.protocol),
        host_ip=ip_address(f"{field}.host_ip", message.host_ip),
    )


def _read_id(context: pb.LinuxSandboxSecurityContext, name: str, where: str) -> int | None:
    if name == "run_as_user":
        value = context.run_as_user.value if context.HasField("run_as_user") else None
    else:
        value = context.run_as_group.value if context.HasField("run_as_group") else None
    return None if value is None else within(f"{where}.{name}", value, 0, MAX_ID)


def write_sandbox_metadata(metadata: SandboxMetadata) -> pb.PodSandboxMetadata:
    """What the kubelet calls the pod."""
    return pb.PodSandboxMetadata(
        name=metadata.name, uid=metadata.uid, namespace=metadata.namespace, attempt=metadata.attempt
    )


def write_sandbox_config(config: SandboxConfig) -> pb.PodSandboxConfig:
    """A pod's configuration as CRI says it; what CRI has no field for is left out."""
    context = pb.LinuxSandboxSecurityContext(
        namespace_options=write_namespaces(config.namespaces),
        selinux_options=write_selinux(config.selinux) if config.selinux else None,
        run_as_user=None if config.run_as_user is None else pb.Int64Value(value=config.run_as_user),
        run_as_group=None if config.run_as_group is None else pb.Int64Value(value=config.run_as_group),
        readonly_rootfs=config.readonly_rootfs,
        supplemental_groups=config.supplemental_groups,
        supplemental_groups_policy=pb.Strict if config.strict_groups else pb.Merge,
        privileged=config.privileged,
        seccomp=write_profile(config.seccomp) if config.seccomp else None,
        apparmor=write_profile(config.apparmor) if config.apparmor else None,
    )
    return pb.PodSandboxConfig(
        metadata=write_sandbox_metadata(config.metadata),
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns_config=pb.DNSConfig(
            servers=config.dns.servers, searches=config.dns.searches, options=config.dns.options
        ),
        port_mappings=[
            pb.PortMapping(
                protocol=PROTOCOL_NUMBERS[p.protocol],
                container_port=p.container_port,
                host_port=p.host_port,
                host_ip=p.host_ip,
            )
            for p in config.port_mappings
        ],
        labels=config.labels,
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent,
            security_context=context,
            sysctls=config.sysctls,
            overhead=write_resources(config.overhead) if config.overhead else None,
            resources=write_resources(config.resources) if config.resources else None,
        ),
    )


def read_sandbox_filter(message: pb.PodSandboxFilter, field: str = "filter") -> SandboxFilter:
    """Which sandboxes a client wants to see. Raises InvalidArgument for an unknown state."""
    return SandboxFilter(
        id=message.id,
        state=known(f"{field}.state", SANDBOX_STATES, message.state.state)
        if message.HasField("state")
        else None,
        labels=dict(message.label_selector),
    )


def read_sandbox_stats_filter(message: pb.PodSandboxStatsFilter) -> SandboxFilter:
    """Whose statistics a client wants to see."""
    return SandboxFilter(id=message.id, labels=dict(message.label_selector))


def write_sandbox(status: SandboxStatus) -> pb.PodSandbox:
    """One line of a listing."""
    return pb.PodSandbox(
        id=status.id,
        metadata=write_sandbox_metadata(status.config.metadata),
        state=SANDBOX_STATE_NUMBERS[status.state],
        created_at=status.created_at_ns,
        labels=status.config.labels,
        annotations=status.config.annotations,
        runtime_handler=status.runtime_handler,
    )


def write_sandbox_status(status: SandboxStatus) -> pb.PodSandboxStatus:
    """A sandbox with its addresses; on the host's network it has none of its own, as CRI wants."""
    first, *others = status.addresses or ("",)
    return pb.PodSandboxStatus(
        id=status.id,
        metadata=write_sandbox_metadata(status.config.metadata),
        state=SANDBOX_STATE_NUMBERS[status.state],
        created_at=status.created_at_ns,
        network=pb.PodSandboxNetworkStatus(ip=first, additional_ips=[pb.PodIP(ip=a) for a in others]),
        linux=pb.LinuxPodSandboxStatus(
            namespaces=pb.Namespace(options=write_namespaces(status.config.namespaces))
        ),
        labels=status.config.labels,
        annotations=status.config.annotations,
        runtime_handler=status.runtime_handler,
    )
