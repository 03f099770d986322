# SPDX-License-Identifier: Apache-2.0
"""Devices by name (Container Device Interface): from vendors' files to what they change of a container.

Owns reading, checking and combining; makes nothing. The files are of this host's administrator, yet read as if they
were not: bounded, typed, without aliases. What is not understood in them is refused, never left out.
Spec: CNCF CDI specification 0.8, "vendor.com/class=name".
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from oakum.backend.config import ContainerConfig, Mount
from oakum.engine.spec.devices import Node
from oakum.errors import InvalidArgument, NotFound, OakumError, SystemFailure, Unimplemented

DIRECTORIES: Final = ("/etc/cdi", "/var/run/cdi")
"""Where specification files lie; a device of a later directory replaces one of an earlier."""

ANNOTATION: Final = "cdi.k8s.io/"
"""Beginning of the annotations by which kubelets named devices before CRI had a field for it."""

_MAX_BYTES: Final = 1 << 20
_MAX_FILES: Final = 1000
_NAME: Final = re.compile(
    r"(?P<kind>[A-Za-z][A-Za-z0-9_.-]{0,127}/[A-Za-z][A-Za-z0-9_-]{0,127})=(?P<name>[A-Za-z0-9][A-Za-z0-9_.:-]{0,127})"
)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class DeviceNode(_Strict, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A device node; what is not said is as on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class DeviceMount(_Strict, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A host path seen in the container."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Edits(_Strict, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a device changes of a container. The last three are known and refused."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[DeviceMount, ...] = ()
    additional_gids: tuple[int, ...] = msgspec.field(default=(), name="additionalGids")
    hooks: tuple[dict[str, Any], ...] = ()
    intel_rdt: dict[str, Any] | None = None
    net_devices: tuple[dict[str, Any], ...] = ()


class NamedDevice(_Strict, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One device of a specification."""

    name: str
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


class Specification(_Strict, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One file: the devices of a kind, and what any of them changes."""

    cdi_version: str
    kind: str
    devices: tuple[NamedDevice, ...] = ()
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


def parse(data: bytes, path: str) -> Specification:
    """A specification file, JSON or (by its name) YAML.

    Raises:
        InvalidArgument: it is neither, too large, or holds what CDI does not have.
    """
    if len(data) > _MAX_BYTES:
        raise InvalidArgument("read CDI specification", path, f"more than {_MAX_BYTES} bytes")
    try:
        if path.endswith(".json"):
            return msgspec.json.decode(data, type=Specification)
        return msgspec.convert(_plain_yaml(data), type=Specification)
    except (ValueError, RecursionError) as error:  # msgspec's and YAML's errors are ValueErrors here
        raise InvalidArgument("read CDI specification", path, str(error)[:500]) from error


def _plain_yaml(data: bytes) -> object:
    import yaml  # only hosts with such files need it

    class Loader(yaml.SafeLoader):
        """YAML without aliases: a few of them unfold to more than any memory holds."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise ValueError("aliases are not allowed")
            return super().compose_node(parent, index)

    try:
        return yaml.load(data, Loader=Loader)  # noqa: S506 - the loader is a safe one
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def requested(config: ContainerConfig) -> tuple[str, ...]:
    """The devices that a container names, by field and by annotation, each once."""
    names = list(config.cdi_devices)
    for key, value in config.annotations.items():
        if key.startswith(ANNOTATION):
            names.extend(name.strip() for name in value.split(",") if name.strip())
    return tuple(dict.fromkeys(names))


def edits_of(names: Sequence[str], directories: Sequence[str] = ()) -> list[Edits]:
    """What the devices `names` change, each specification's own edits once and before its devices'.

    Raises:
        InvalidArgument: a name is none, or two files of one directory have the same device.
        NotFound: no file has such a device.
        Unimplemented: it changes what this version cannot.
    """
    if not names:
        return []
    found: list[Edits] = []
    known = list(_specifications(directories or DIRECTORIES))
    used: set[int] = set()
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidArgument("find CDI device", repr(name), "not of the form vendor.com/class=name")
        number, specification, device = _find(known, match["kind"], match["name"], name)
        if number not in used:
            used.add(number)
            found.append(specification.container_edits)
        found.append(device.container_edits)
    for edits in found:
        for what, value in (
            ("hooks", edits.hooks),
            ("intelRdt", edits.intel_rdt),
            ("netDevices", edits.net_devices),
        ):
            if value:
                raise Unimplemented(
                    "add CDI device",
                    ", ".join(names),
                    f"its specification has {what}, which is not carried out",
                )
    return found


def _specifications(directories: Iterable[str]) -> Iterable[tuple[str, str, Specification | OakumError]]:
    """Directory, path and content of each file; one that cannot be read is told only when its device is wanted."""
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SystemFailure.from_os_error(error, "list CDI specifications", directory) from error
        for name in [n for n in names if n.endswith((".json", ".yaml", ".yml"))][:_MAX_FILES]:
            path = f"{directory}/{name}"
            try:
                yield directory, path, parse(_read(path), path)
            except OakumError as error:
                yield directory, path, error


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "read CDI specification", path) from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument("read CDI specification", path, "not a regular file")
        return file.read(_MAX_BYTES + 1)


def _find(
    known: Sequence[tuple[str, str, Specification | OakumError]], kind: str, name: str, asked: str
) -> tuple[int, Specification, NamedDevice]:
    hits: list[tuple[str, int, Specification, NamedDevice]] = []
    broken: OakumError | None = None
    for number, (directory, _path, specification) in enumerate(known):
        if isinstance(specification, OakumError):
            broken = broken or specification
        elif specification.kind == kind:
            hits.extend(
                (directory, number, specification, d) for d in specification.devices if d.name == name
            )
    if not hits:
        if broken is not None:
            raise broken
        raise NotFound(
            "find CDI device",
            repr(asked),
            "no specification has it",
            hint=f"they lie in {', '.join(DIRECTORIES)}",
        )
    last = hits[-1][0]
    if sum(directory == last for directory, *_ in hits) > 1:
        raise InvalidArgument("find CDI device", repr(asked), f"more than one file in {last} has it")
    return hits[-1][1:]


def injected(config: ContainerConfig, edits: Sequence[Edits]) -> ContainerConfig:
    """`config` with environment, mounts and groups of its devices; `nodes` are apart.

    Raises:
        InvalidArgument: a variable is none, or a mount is no bind mount.
    """
    envs, mounts = list(config.envs), list(config.mounts)
    groups = list(config.supplemental_groups)
    for edit in edits:
        for text in edit.env:
            name, separator, value = text.partition("=")
            if not name or not separator:
                raise InvalidArgument("add CDI device", repr(text), "not NAME=VALUE")
            envs.append((name, value))
        mounts.extend(_mount(m) for m in edit.mounts)
        groups.extend(gid for gid in edit.additional_gids if gid > 0 and gid not in groups)
    return msgspec.structs.replace(
        config, envs=tuple(envs), mounts=tuple(mounts), supplemental_groups=tuple(groups)
    )


def _mount(mount: DeviceMount) -> Mount:
    if mount.type not in ("", "bind", "none"):
        raise InvalidArgument("add CDI device", mount.container_path, f"a mount of type {mount.type!r}")
    readonly = "ro" in mount.options
    left_out = ("ro", "rw", "bind", "rbind", "private", "rprivate")
    return Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=readonly,
        options=tuple(option for option in mount.options if option not in left_out),
    )


def nodes(edits: Sequence[Edits]) -> list[Node]:
    """The device nodes of the edits, completed from the host's.

    Raises:
        InvalidArgument: a path is relative, permissions or type are none.
        NotFound: the host has no such device, and the specification does not say its numbers.
    """
    return [_node(node) for edit in edits for node in edit.device_nodes]


def _node(wanted: DeviceNode) -> Node:
    where = wanted.host_path or wanted.path
    if not wanted.path.startswith("/") or not where.startswith("/"):
        raise InvalidArgument("add CDI device", repr(wanted.path), "not an absolute path")
    permissions = wanted.permissions or "rwm"
    if set(permissions) - set("rwm"):
        raise InvalidArgument("add CDI device", wanted.path, f"permissions {permissions!r} are not of 'rwm'")
    kind, major, minor = wanted.type, wanted.major, wanted.minor
    mode, uid, gid = wanted.file_mode, wanted.uid, wanted.gid
    if not kind or major is None or minor is None or mode is None:
        try:
            status = os.stat(where)
        except OSError as error:
            raise NotFound("add CDI device", where, error.strerror or str(error)) from error
        host_kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
        if not host_kind or kind not in ("", host_kind, "u" if host_kind == "c" else host_kind):
            raise InvalidArgument("add CDI device", where, f"not a device of type {kind or 'c or b'}")
        kind = host_kind
        major = os.major(status.st_rdev) if major is None else major
        minor = os.minor(status.st_rdev) if minor is None else minor
        mode = stat.S_IMODE(status.st_mode) if mode is None else mode
        uid = status.st_uid if uid is None else uid
        gid = status.st_gid if gid is None else gid
    if kind not in ("c", "b", "u"):
        raise InvalidArgument("add CDI device", wanted.path, f"type {kind!r} is not c or b")
    return Node(
        wanted.path,
        "c" if kind == "u" else kind,
        major,
        minor,
        mode & 0o7777,
        uid or 0,
        gid or 0,
        permissions,
    )
