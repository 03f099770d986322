# SPDX-License-Identifier: Apache-2.0
"""The parts that both security contexts share: namespaces, id maps, profiles, SELinux labels, users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import MAX_ID, absolute_path, known, present, refusal, within
from oakum.api.cri.convert.enums import (
    NAMESPACE_MODES,
    NAMESPACE_NUMBERS,
    PROFILE_NUMBERS,
    PROFILES,
)
from oakum.backend.config import IdMapping, NamespaceOptions, SecurityProfile, SELinuxOptions


def read_id_mappings(messages: Sequence[pb.IDMapping], field: str) -> tuple[IdMapping, ...]:
    """A user namespace's map. Raises InvalidArgument for an empty range."""
    return tuple(
        IdMapping(
            host_id=m.host_id, container_id=m.container_id, length=within(f"{field}[{i}].length", m.length, 1)
        )
        for i, m in enumerate(messages)
    )


def write_id_mappings(mappings: Iterable[IdMapping]) -> list[pb.IDMapping]:
    """A user namespace's map as CRI says it."""
    return [pb.IDMapping(host_id=m.host_id, container_id=m.container_id, length=m.length) for m in mappings]


def read_namespaces(message: pb.NamespaceOption, field: str, *, of_sandbox: bool) -> NamespaceOptions:
    """Which namespaces are shared with whom; what is not said is the pod's, as in CRI.

    On the host's network the host name is the host's too, as Kubernetes expects.

    Raises:
        InvalidArgument: a mode that CRI does not give to this namespace.
    Spec: CRI v1 NamespaceOption.
    """
    network = known(f"{field}.network", NAMESPACE_MODES, message.network)
    pid = known(f"{field}.pid", NAMESPACE_MODES, message.pid)
    ipc = known(f"{field}.ipc", NAMESPACE_MODES, message.ipc)
    if network not in ("pod", "node"):
        raise refusal(
            f"{field}.network", f"mode {network.upper()} is not for networks", hint="use POD or NODE"
        )
    if ipc == "target":
        raise refusal(f"{field}.ipc", "mode TARGET is for process namespaces only")
    if pid == "target":
        if of_sandbox:
            raise refusal(f"{field}.pid", "mode TARGET is for containers only")
        present(f"{field}.target_id", message.target_id)
    user = "node"
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()
    if message.HasField("userns_options"):
        options = message.userns_options
        user = known(f"{field}.userns_options.mode", NAMESPACE_MODES, options.mode)
        if user not in ("pod", "node"):
            raise refusal(f"{field}.userns_options.mode", f"mode {user.upper()} is not for users")
        uids = read_id_mappings(options.uids, f"{field}.userns_options.uids")
        gids = read_id_mappings(options.gids, f"{field}.userns_options.gids")
        if user == "pod" and not (uids and gids):
            raise refusal(f"{field}.userns_options", "a user namespace needs uid and gid mappings")
    return NamespaceOptions(
        network=network,
        pid=pid,
        ipc=ipc,
        uts="node" if network == "node" else "pod",
        target_id=message.target_id,
        user=user,
        uid_mappings=uids,
        gid_mappings=gids,
    )


def write_namespaces(namespaces: NamespaceOptions) -> pb.NamespaceOption:
    """Namespaces as CRI says them."""
    message = pb.NamespaceOption(
        network=NAMESPACE_NUMBERS[namespaces.network],
        pid=NAMESPACE_NUMBERS[namespaces.pid],
        ipc=NAMESPACE_NUMBERS[namespaces.ipc],
        target_id=namespaces.target_id,
    )
    if namespaces.user != "node" or namespaces.uid_mappings or namespaces.gid_mappings:
        message.userns_options.CopyFrom(
            pb.UserNamespace(
                mode=NAMESPACE_NUMBERS[namespaces.user],
                uids=write_id_mappings(namespaces.uid_mappings),
                gids=write_id_mappings(namespaces.gid_mappings),
            )
        )
    return message


def read_profile(message: pb.SecurityProfile, field: str, *, is_path: bool) -> SecurityProfile:
    """A seccomp (`is_path`) or AppArmor profile. Raises InvalidArgument without the name of a local one."""
    kind = known(f"{field}.profile_type", PROFILES, message.profile_type)
    if kind != "localhost":
        return SecurityProfile(kind=kind)
    return SecurityProfile(
        kind=kind, localhost_ref=_local(message.localhost_ref, f"{field}.localhost_ref", is_path=is_path)
    )


def read_old_profile(text: str, field: str, *, is_path: bool) -> SecurityProfile | None:
    """The same from the deprecated string: "runtime/default", "unconfined", "localhost/NAME"; empty is None."""
    if not text:
        return None
    if text in ("runtime/default", "docker/default"):
        return SecurityProfile()
    if text == "unconfined":
        return SecurityProfile(kind="unconfined")
    if text.startswith("localhost/"):
        return SecurityProfile(kind="localhost", localhost_ref=_local(text, field, is_path=is_path))
    raise refusal(
        field, f"{text!r} is not a profile", hint="use runtime/default, unconfined or localhost/NAME"
    )


def _local(text: str, field: str, *, is_path: bool) -> str:
    name = text.removeprefix("localhost/")
    return absolute_path(field, name) if is_path else present(field, name)


def write_profile(profile: SecurityProfile) -> pb.SecurityProfile:
    """A profile as CRI says it."""
    return pb.SecurityProfile(profile_type=PROFILE_NUMBERS[profile.kind], localhost_ref=profile.localhost_ref)


def read_selinux(message: pb.SELinuxOption) -> SELinuxOptions:
    """The parts of a label."""
    return SELinuxOptions(user=message.user, role=message.role, type=message.type, level=message.level)


def write_selinux(options: SELinuxOptions) -> pb.SELinuxOption:
    """The parts of a label as CRI says them."""
    return pb.SELinuxOption(user=options.user, role=options.role, type=options.type, level=options.level)


class RunAs(NamedTuple):
    """The three CRI fields that say whom to run as."""

    user: pb.Int64Value | None
    group: pb.Int64Value | None
    username: str


def read_user(context: pb.LinuxContainerSecurityContext, field: str) -> str:
    """Whom to run as out of the three run_as fields: "uid", "uid:gid", "name", "name:gid"; empty is the image's.

    Raises:
        InvalidArgument: a group without a user, a user said twice, an id out of range.
    """
    user = context.run_as_username
    if context.HasField("run_as_user"):
        if user:
            raise refusal(f"{field}.run_as_username", "run_as_user is given too")
        user = str(within(f"{field}.run_as_user", context.run_as_user.value, 0, MAX_ID))
    if not context.HasField("run_as_group"):
        return user
    if not user or ":" in user:
        raise refusal(
            f"{field}.run_as_group", "a group needs run_as_user, or run_as_username without a group"
        )
    return f"{user}:{within(f'{field}.run_as_group', context.run_as_group.value, 0, MAX_ID)}"


def write_user(user: str) -> RunAs:
    """The three run_as fields for `user`; a group that is a name stays with the user's name."""
    name, _, group = user.partition(":")
    if group and not _is_number(group):
        return RunAs(None, None, user)
    gid = pb.Int64Value(value=int(group)) if group else None
    if _is_number(name):
        return RunAs(pb.Int64Value(value=int(name)), gid, "")
    return RunAs(None, gid, name)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
