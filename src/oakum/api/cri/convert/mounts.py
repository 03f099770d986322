# SPDX-License-Identifier: Apache-2.0
"""Mounts and devices of a container."""

from __future__ import annotations

import posixpath

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import absolute_path, known, path_below, present, refusal
from oakum.api.cri.convert.enums import PROPAGATION_NUMBERS, PROPAGATIONS
from oakum.api.cri.convert.security import read_id_mappings, write_id_mappings
from oakum.backend.config import Device, Mount


def read_mount(message: pb.Mount, field: str) -> Mount:
    """A host path or an image seen inside the container.

    Raises:
        InvalidArgument: a relative path, both or neither of host path and image, recursive read-only without
            its conditions.
    Spec: CRI v1 Mount.
    """
    image = message.image.image or message.image.image_ref if message.HasField("image") else ""
    if image and message.host_path:
        raise refusal(f"{field}.host_path", "an image is given too", hint="give one of them")
    if not image:
        absolute_path(f"{field}.host_path", message.host_path)
    elif not message.readonly:
        raise refusal(f"{field}.readonly", "an image is mounted read-only", hint="set it")
    if message.image_sub_path and not image:
        raise refusal(f"{field}.image_sub_path", "there is no image")
    where = absolute_path(f"{field}.container_path", message.container_path)
    if posixpath.normpath(where).strip("/") == "":
        raise refusal(f"{field}.container_path", "nothing can be mounted over the container's root")
    propagation = known(f"{field}.propagation", PROPAGATIONS, message.propagation)
    if message.recursive_read_only and not message.readonly:
        raise refusal(f"{field}.recursive_read_only", "the mount is not readonly")
    if message.recursive_read_only and propagation != "private":
        raise refusal(f"{field}.recursive_read_only", "the propagation is not private")
    return Mount(
        container_path=where,
        host_path=message.host_path,
        readonly=message.readonly,
        recursive_read_only=message.recursive_read_only,
        selinux_relabel=message.selinux_relabel,
        propagation=propagation,
        uid_mappings=read_id_mappings(message.uidMappings, f"{field}.uidMappings"),
        gid_mappings=read_id_mappings(message.gidMappings, f"{field}.gidMappings"),
        image=image,
        image_sub_path=path_below(f"{field}.image_sub_path", message.image_sub_path),
        options=tuple(message.mount_options),
    )


def write_mount(mount: Mount) -> pb.Mount:
    """A mount as CRI says it."""
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        recursive_read_only=mount.recursive_read_only,
        selinux_relabel=mount.selinux_relabel,
        propagation=PROPAGATION_NUMBERS[mount.propagation],
        uidMappings=write_id_mappings(mount.uid_mappings),
        gidMappings=write_id_mappings(mount.gid_mappings),
        image=pb.ImageSpec(image=mount.image, image_ref=mount.image_id) if mount.image else None,
        image_sub_path=mount.image_sub_path,
        mount_options=mount.options,
    )


def read_device(message: pb.Device, field: str) -> Device:
    """A host device seen inside the container. Raises InvalidArgument for bad paths or permissions."""
    permissions = message.permissions or "rwm"
    if not set(permissions) <= set("rwm"):
        raise refusal(f"{field}.permissions", f"{permissions!r} has more than r, w and m")
    host_path = absolute_path(f"{field}.host_path", message.host_path)
    return Device(
        container_path=absolute_path(f"{field}.container_path", message.container_path or host_path),
        host_path=host_path,
        permissions=permissions,
    )


def write_device(device: Device) -> pb.Device:
    """A device as CRI says it."""
    return pb.Device(
        container_path=device.container_path, host_path=device.host_path, permissions=device.permissions
    )


def read_cdi_device(message: pb.CDIDevice, field: str) -> str:
    """The fully qualified name of a CDI device."""
    return present(f"{field}.name", message.name)
