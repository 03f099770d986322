# SPDX-License-Identifier: Apache-2.0
"""Containers: configuration, filter, status."""

from __future__ import annotations

from collections.abc import Sequence

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import absolute_path, ids, known, path_below, present, refusal
from oakum.api.cri.convert.enums import (
    CONTAINER_STATE_NUMBERS,
    CONTAINER_STATES,
    GROUP_POLICIES,
    read_signal,
    write_signal,
)
from oakum.api.cri.convert.mounts import read_cdi_device, read_device, read_mount, write_device, write_mount
from oakum.api.cri.convert.resources import read_resources, write_resources
from oakum.api.cri.convert.security import (
    read_namespaces,
    read_old_profile,
    read_profile,
    read_selinux,
    read_user,
    write_namespaces,
    write_profile,
    write_selinux,
    write_user,
)
from oakum.backend.config import ContainerConfig, ContainerMetadata, Resources, SecurityProfile
from oakum.backend.status import ContainerFilter, ContainerStatus


def read_container_config(message: pb.ContainerConfig, field: str = "config") -> ContainerConfig:
    """The container that a client wants.

    Empty masked and read-only paths mean none: the kubelet always says them, and says none for an
    unmasked /proc.

    Raises:
        InvalidArgument: no metadata, name or image, or a value that cannot be meant.
    Spec: CRI v1 ContainerConfig.
    """
    if not message.HasField("metadata"):
        raise refusal(f"{field}.metadata", "missing")
    linux, context = message.linux, message.linux.security_context
    where = f"{field}.linux.security_context"
    resources = Resources()
    if linux.HasField("resources"):
        resources = read_resources(linux.resources, f"{field}.linux.resources", zero_score_is_said=True)
    seccomp, apparmor = _read_profiles(context, where)
    return ContainerConfig(
        metadata=ContainerMetadata(
            name=present(f"{field}.metadata.name", message.metadata.name), attempt=message.metadata.attempt
        ),
        image=present(f"{field}.image.image", message.image.image or message.image.image_ref),
        user_specified_image=message.image.user_specified_image,
        command=tuple(message.command),
        args=tuple(message.args),
        working_dir=absolute_path(f"{field}.working_dir", message.working_dir) if message.working_dir else "",
        envs=_read_envs(message.envs, f"{field}.envs"),
        mounts=tuple(read_mount(m, f"{field}.mounts[{i}]") for i, m in enumerate(message.mounts)),
        devices=tuple(read_device(d, f"{field}.devices[{i}]") for i, d in enumerate(message.devices)),
        cdi_devices=tuple(
            read_cdi_device(d, f"{field}.CDI_devices[{i}]") for i, d in enumerate(message.CDI_devices)
        ),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        log_path=path_below(f"{field}.log_path", message.log_path),
        stdin=message.stdin,
        stdin_once=message.stdin_once,
        tty=message.tty,
        resources=resources,
        add_capabilities=tuple(context.capabilities.add_capabilities),
        drop_capabilities=tuple(context.capabilities.drop_capabilities),
        ambient_capabilities=tuple(context.capabilities.add_ambient_capabilities),
        privileged=context.privileged,
        namespaces=read_namespaces(context.namespace_options, f"{where}.namespace_options", of_sandbox=False),
        user=read_user(context, where),
        supplemental_groups=ids(f"{where}.supplemental_groups", context.supplemental_groups),
        strict_groups=known(
            f"{where}.supplemental_groups_policy", GROUP_POLICIES, context.supplemental_groups_policy
        ),
        readonly_rootfs=context.readonly_rootfs,
        no_new_privs=context.no_new_privs,
        masked_paths=_absolute_paths(f"{where}.masked_paths", context.masked_paths),
        readonly_paths=_absolute_paths(f"{where}.readonly_paths", context.readonly_paths),
        seccomp=seccomp,
        apparmor=apparmor,
        selinux=read_selinux(context.selinux_options) if context.HasField("selinux_options") else None,
        stop_signal=read_signal(f"{field}.stop_signal", message.stop_signal),
    )


def _read_profiles(
    context: pb.LinuxContainerSecurityContext, where: str
) -> tuple[SecurityProfile | None, SecurityProfile | None]:
    """Seccomp and AppArmor; the deprecated strings count where the new fields are not there."""
    if context.HasField("seccomp"):
        seccomp = read_profile(context.seccomp, f"{where}.seccomp", is_path=True)
    else:
        seccomp = read_old_profile(
            context.seccomp_profile_path, f"{where}.seccomp_profile_path", is_path=True
        )
    if context.HasField("apparmor"):
        apparmor = read_profile(context.apparmor, f"{where}.apparmor", is_path=False)
    else:
        apparmor = read_old_profile(context.apparmor_profile, f"{where}.apparmor_profile", is_path=False)
    return seccomp, apparmor


def _read_envs(messages: Sequence[pb.KeyValue], field: str) -> tuple[tuple[str, str], ...]:
    envs: list[tuple[str, str]] = []
    for i, env in enumerate(messages):
        if "=" in present(f"{field}[{i}].key", env.key):
            raise refusal(f"{field}[{i}].key", "holds '='")
        try:
            envs.append((env.key, env.value.decode()))
        except UnicodeDecodeError:
            # the value itself may be a secret: it is not shown
            raise refusal(f"{field}[{i}].value", f"the value of {env.key!r} is not UTF-8") from None
    return tuple(envs)


def _absolute_paths(field: str, paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(absolute_path(f"{field}[{i}]", path) for i, path in enumerate(paths))


def write_container_metadata(metadata: ContainerMetadata) -> pb.ContainerMetadata:
    """What the kubelet calls the container."""
    return pb.ContainerMetadata(name=metadata.name, attempt=metadata.attempt)


def _write_image(config: ContainerConfig) -> pb.ImageSpec:
    return pb.ImageSpec(image=config.image, user_specified_image=config.user_specified_image)


def write_container_config(config: ContainerConfig) -> pb.ContainerConfig:
    """A container's configuration as CRI says it; what CRI has no field for is left out."""
    user = write_user(config.user)
    context = pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=config.add_capabilities,
            drop_capabilities=config.drop_capabilities,
            add_ambient_capabilities=config.ambient_capabilities,
        ),
        privileged=config.privileged,
        namespace_options=write_namespaces(config.namespaces),
        selinux_options=write_selinux(config.selinux) if config.selinux else None,
        run_as_user=user.user,
        run_as_group=user.group,
        run_as_username=user.username,
        readonly_rootfs=config.readonly_rootfs,
        supplemental_groups=config.supplemental_groups,
        supplemental_groups_policy=pb.Strict if config.strict_groups else pb.Merge,
        no_new_privs=config.no_new_privs,
        masked_paths=config.masked_paths or (),
        readonly_paths=config.readonly_paths or (),
        seccomp=write_profile(config.seccomp) if config.seccomp else None,
        apparmor=write_profile(config.apparmor) if config.apparmor else None,
    )
    linux = pb.LinuxContainerConfig(security_context=context)
    if config.resources != Resources():
        linux.resources.CopyFrom(write_resources(config.resources))
    return pb.ContainerConfig(
        metadata=write_container_metadata(config.metadata),
        image=_write_image(config),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=key, value=value.encode()) for key, value in config.envs],
        mounts=[write_mount(m) for m in config.mounts],
        devices=[write_device(d) for d in config.devices],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=linux,
        CDI_devices=[pb.CDIDevice(name=name) for name in config.cdi_devices],
        stop_signal=write_signal(config.stop_signal),
    )


def read_container_filter(message: pb.ContainerFilter, field: str = "filter") -> ContainerFilter:
    """Which containers a client wants to see. Raises InvalidArgument for an unknown state."""
    return ContainerFilter(
        id=message.id,
        sandbox_id=message.pod_sandbox_id,
        state=known(f"{field}.state", CONTAINER_STATES, message.state.state)
        if message.HasField("state")
        else None,
        labels=dict(message.label_selector),
    )


def read_container_stats_filter(message: pb.ContainerStatsFilter) -> ContainerFilter:
    """Whose statistics a client wants to see."""
    return ContainerFilter(
        id=message.id, sandbox_id=message.pod_sandbox_id, labels=dict(message.label_selector)
    )


def write_container(status: ContainerStatus) -> pb.Container:
    """One line of a listing."""
    return pb.Container(
        id=status.id,
        pod_sandbox_id=status.sandbox_id,
        metadata=write_container_metadata(status.config.metadata),
        image=_write_image(status.config),
        image_ref=status.image_ref,
        state=CONTAINER_STATE_NUMBERS[status.state],
        created_at=status.created_at_ns,
        labels=status.config.labels,
        annotations=status.config.annotations,
        image_id=status.image_id,
    )


def write_container_status(status: ContainerStatus) -> pb.ContainerStatus:
    """A container with all that CRI asks about it."""
    message = pb.ContainerStatus(
        id=status.id,
        metadata=write_container_metadata(status.config.metadata),
        state=CONTAINER_STATE_NUMBERS[status.state],
        created_at=status.created_at_ns,
        started_at=status.started_at_ns,
        finished_at=status.finished_at_ns,
        exit_code=status.exit_code,
        image=_write_image(status.config),
        image_ref=status.image_ref,
        reason=status.reason,
        message=status.message,
        labels=status.config.labels,
        annotations=status.config.annotations,
        mounts=[write_mount(m) for m in status.config.mounts],
        log_path=status.log_path,
        resources=pb.ContainerResources(linux=write_resources(status.resources)),
        image_id=status.image_id,
        stop_signal=write_signal(status.stop_signal),
    )
    if status.user is not None:
        message.user.linux.CopyFrom(
            pb.LinuxContainerUser(
                uid=status.user.uid,
                gid=status.user.gid,
                supplemental_groups=status.user.supplemental_groups,
            )
        )
    return message
