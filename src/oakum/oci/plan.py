# SPDX-License-Identifier: Apache-2.0
"""From spec to plan: the namespaces to make and join, and the steps that build the root file system. Pure.

Every step is a value that can say what it is (`describe`), so a plan can be printed and tested before anything is
touched. `rootfs` carries the steps out, `init` the rest.
"""

from __future__ import annotations

import os

from oakum.errors import InvalidArgument, Unimplemented
from oakum.linux import mount as m
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci.cgroups.layout import Layout
from oakum.oci.options import MountOptions, parse_options
from oakum.oci.refusals import refuse
from oakum.oci.spec import Device, IdMapping, Linux, Mount, Spec

if TYPE_CHECKING:
    from typing import Final

DEFAULT_DEVICES: Final[tuple[Device, ...]] = (
    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
    {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666},
    {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666},
    {"path": "/dev/random", "type": "c", "major": 1, "minor": 8, "fileMode": 0o666},
    {"path": "/dev/urandom", "type": "c", "major": 1, "minor": 9, "fileMode": 0o666},
    {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "fileMode": 0o666},
)
# Spec: runtime-spec runtime-linux.md "Dev symbolic links", and default-devices for ptmx.
DEFAULT_LINKS: Final = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)
# What lxcfs and the like lay over single files of /proc; nothing else may be mounted inside it.
PROC_FILES_ALLOWED: Final = frozenset(
    {
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    }
)


class BindMount(NamedTuple):
    """A detached copy of the host's `source`, put at `target`."""

    source: str
    target: str
    options: MountOptions
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"{'rbind' if self.options.recursive else 'bind'} {self.source} to {self.target}"


class FilesystemMount(NamedTuple):
    """A new file system at `target`."""

    fstype: str
    source: str
    target: str
    options: MountOptions

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"{self.fstype} at {self.target}"


class CgroupBind(NamedTuple):
    """The container's own group (`source`) at `target`; only there once the parent has made it.

    `beside_others`: in a directory of the plan's own, one for each tree.
    """

    source: str
    target: str
    options: MountOptions
    beside_others: bool = False

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"cgroup {self.source} to {self.target}"


class Link(NamedTuple):
    """A symbolic link at `path`."""

    text: str
    path: str

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"link {self.path} -> {self.text}"


class MakeDevice(NamedTuple):
    """A device node; in a user namespace a bind of the host's."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"device {self.path} ({self.kind} {self.major}:{self.minor})"


class Remount(NamedTuple):
    """New attributes for the mount at `target`."""

    target: str
    set_flags: int

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"attributes of {self.target}"


class Mask(NamedTuple):
    """Nothing to be seen at `path`: an empty directory or /dev/null over it, if it is there."""

    path: str

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"mask {self.path}"


class ReadOnly(NamedTuple):
    """Nothing to be changed at or below `path`, if it is there."""

    path: str

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"read-only {self.path}"


Step = BindMount | FilesystemMount | CgroupBind | Link | MakeDevice | Remount | Mask | ReadOnly


class Plan(NamedTuple):
    """All that `init` does before it becomes the container's process, in order of the fields.

    `create` and `join` are namespaces by their runtime-spec names; `steps` come before the pivot, `seal` after the
    sysctls. `root_propagation` is MS_* or 0.
    """

    create: tuple[str, ...]
    join: tuple[tuple[str, str], ...]
    root_path: str
    steps: tuple[Step, ...]
    sysctls: tuple[tuple[str, str], ...]
    seal: tuple[Step, ...]
    root_read_only: bool
    root_propagation: int

    @property
    def needs_cgroup(self) -> bool:
        """Whether a step shows the container its own group."""
        return any(isinstance(step, CgroupBind) for step in self.steps)

    @property
    def has_id_maps(self) -> bool:
        """Whether a bind mount has an id mapping of its own."""
        return any(isinstance(step, BindMount) and step.uid_mappings for step in self.steps)

    def describe(self) -> list[str]:
        """The whole plan, a line a step."""
        lines = [f"new {kind} namespace" for kind in self.create]
        lines += [f"join {kind} namespace {path or 'by descriptor'}" for kind, path in self.join]
        lines += [step.describe() for step in self.steps]
        lines += [f"sysctl {key} = {value}" for key, value in self.sysctls]
        lines += [step.describe() for step in self.seal]
        if self.root_read_only:
            lines.append("read-only /")
        return lines


def make_plan(
    spec: Spec,
    *,
    bundle: str,
    layout: Layout | None,
    cgroup_path: str,
    joined: frozenset[str] = frozenset(),
) -> Plan:
    """The plan for `spec`; `joined` are the namespaces that are joined by descriptor whatever the spec says.

    Raises:
        InvalidArgument: members of the spec contradict each other.
        Unimplemented: it asks for what this runtime does not do.
    """
    refuse(spec)
    linux: Linux = spec.get("linux") or {}
    create, join = _namespaces(linux, joined)
    if "mount" not in create:
        raise InvalidArgument(
            "plan container", "$.linux.namespaces", "no new mount namespace", hint='add {"type": "mount"}'
        )
    kinds = {*create, *(kind for kind, _ in join)}
    _check_consistency(spec, linux, kinds, create)
    mounts = spec.get("mounts") or []
    steps: list[Step] = []
    for index, mount in enumerate(mounts):
        made = _mount_steps(
            mount, f"$.mounts[{index}]", bundle, layout, cgroup_path, own_cgroup="cgroup" in kinds
        )
        steps += _labelled(made, linux.get("mountLabel") or "")
    steps += _device_steps(linux, mounts)
    seal: list[Step] = [ReadOnly(path) for path in linux.get("readonlyPaths") or []]
    seal += [Mask(path) for path in linux.get("maskedPaths") or []]
    root = spec.get("root") or {}
    root_path = root.get("path") or ""
    return Plan(
        create=create,
        join=join,
        root_path=os.path.normpath(os.path.join(bundle, root_path)) if root_path else "",
        steps=tuple(steps),
        sysctls=tuple((linux.get("sysctl") or {}).items()),
        seal=tuple(seal),
        root_read_only=bool(root.get("readonly")),
        root_propagation=_propagation(linux.get("rootfsPropagation") or ""),
    )


def _namespaces(linux: Linux, joined: frozenset[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    create: list[str] = []
    join: list[tuple[str, str]] = [(kind, "") for kind in sorted(joined)]
    for namespace in linux.get("namespaces") or []:
        kind = namespace.get("type", "")
        if kind in joined:
            continue
        path = namespace.get("path") or ""
        if path and not path.startswith("/"):
            raise InvalidArgument("plan container", f"{kind} namespace {path!r}", "not an absolute path")
        if path:
            join.append((kind, path))
        else:
            create.append(kind)
    return tuple(create), tuple(join)


def _check_consistency(spec: Spec, linux: Linux, kinds: set[str], create: tuple[str, ...]) -> None:
    for member in ("hostname", "domainname"):
        if spec.get(member) and "uts" not in kinds:
            raise InvalidArgument(
                "plan container", f"$.{member}", "set, but the container has no UTS namespace of its own"
            )
    if "user" in create and not (linux.get("uidMappings") and linux.get("gidMappings")):
        raise InvalidArgument(
            "plan container", "$.linux.uidMappings", "a new user namespace needs uid and gid mappings"
        )
    if linux.get("timeOffsets") and "time" not in create:
        raise InvalidArgument(
            "plan container", "$.linux.timeOffsets", "set, but the container has no new time namespace"
        )
    if linux.get("netDevices"):
        if "network" not in kinds:
            raise InvalidArgument(
                "plan container", "$.linux.netDevices", "set, but the container has the host's network"
            )
        if "network" in create and "user" in kinds and "user" not in create:
            raise Unimplemented(
                "plan container",
                "$.linux.netDevices",
                "a new network namespace in a user namespace that is joined is made too late for them",
                hint="make the network namespace first and join it too",
            )
    for key in linux.get("sysctl") or {}:
        needed = sysctl_namespace(key)
        if needed == "":
            raise InvalidArgument(
                "plan container", f"$.linux.sysctl.{key}", "this sysctl belongs to no namespace"
            )
        if needed not in kinds:
            raise InvalidArgument(
                "plan container",
                f"$.linux.sysctl.{key}",
                f"it would change the host: the container has no {needed} namespace of its own",
            )


def sysctl_namespace(key: str) -> str:
    """The namespace that a sysctl belongs to, or "" for the host's own. Source: namespaces(7), ipc_namespaces(7)."""
    dotted = key.replace("/", ".")
    if dotted.startswith("net."):
        return "network"
    if dotted in ("kernel.domainname", "kernel.hostname"):
        return "uts"
    message_queues = dotted.startswith("fs.mqueue.")
    if message_queues or dotted in (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ):
        return "ipc"
    return "user" if dotted.startswith("user.") else ""


def _propagation(text: str) -> int:
    if not text:
        return 0
    flags = {
        "private": m.MS_PRIVATE,
        "slave": m.MS_SLAVE,
        "shared": m.MS_SHARED,
        "unbindable": m.MS_UNBINDABLE,
    }
    plain = text if text in flags else text[1:]
    return flags[plain] | (m.MS_REC if plain != text else 0)


def _mount_steps(
    mount: Mount, path: str, bundle: str, layout: Layout | None, cgroup_path: str, *, own_cgroup: bool
) -> list[Step]:
    target = mount.get("destination", "")
    if not target.startswith("/"):
        target = "/" + target  # relative destinations were allowed once and are still written
    if ".." in target.split("/"):
        raise InvalidArgument("plan container", f"{path}.destination", f"{target!r} has '..' in it")
    options = parse_options(mount.get("options") or [])
    fstype = mount.get("type") or ""
    source = mount.get("source") or ""
    if options.bind or fstype == "bind":
        if not source:
            raise InvalidArgument("plan container", f"{path}.source", "a bind mount needs a source")
        uid, gid = tuple(mount.get("uidMappings") or ()), tuple(mount.get("gidMappings") or ())
        if bool(uid) != bool(gid):
            raise InvalidArgument(
                "plan container", f"{path}.uidMappings", "uid and gid mappings belong together"
            )
        if options.idmap and not uid:
            raise InvalidArgument(
                "plan container", f"{path}.uidMappings", "missing: the option idmap needs mappings"
            )
        if os.path.normpath(target) == "/sys" and options.recursive and options.read_only:
            # The control groups of the host are mounted below it, and are the user's own where nobody is root: "ro" for
            # the top alone leaves them writable (CVE-2023-25809).
            options = options._replace(recursive_set=options.recursive_set | m.ATTR_RDONLY)
        return [BindMount(os.path.join(bundle, source), target, options, uid, gid)]
    if mount.get("uidMappings") or mount.get("gidMappings"):
        raise InvalidArgument("plan container", f"{path}.uidMappings", "only bind mounts can be id-mapped")
    if fstype in ("cgroup", "cgroup2"):
        return _cgroup_steps(target, options, layout, cgroup_path, own=own_cgroup)
    if not fstype:
        raise InvalidArgument("plan container", f"{path}.type", "neither a type nor the option bind or rbind")
    return [FilesystemMount(fstype, source or fstype, target, options)]


def _labelled(steps: list[Step], label: str) -> list[Step]:
    """New file systems get the SELinux label, but for the kernel's own views, which have theirs."""
    if not label:
        return steps
    return [
        step._replace(options=step.options._replace(data=(*step.options.data, ("context", label))))
        if isinstance(step, FilesystemMount) and step.fstype not in ("proc", "sysfs")
        else step
        for step in steps
    ]


def _cgroup_steps(
    target: str, options: MountOptions, layout: Layout | None, cgroup_path: str, *, own: bool
) -> list[Step]:
    if layout is None:
        raise Unimplemented("plan container", target, "this host has no control groups to show")
    # The group is bound, not mounted anew: a bind shows the same files and needs not wait for the cgroup namespace.
    shown = cgroup_path if own and cgroup_path else ""
    clean = options._replace(data=())
    if layout.mode == "v2":
        tree = layout.unified
        assert tree is not None
        return [CgroupBind(tree.mountpoint + shown, target, clean)]
    # v1 and hybrid: a small tmpfs with one directory a tree, and links for trees with several controllers.
    mode = (("mode", "755"), ("size", "64k"))
    writable = clean._replace(set_flags=clean.set_flags & ~m.ATTR_RDONLY, data=mode)
    steps: list[Step] = [FilesystemMount("tmpfs", "cgroup", target, writable)]
    for tree in layout.hierarchies:
        name = "unified" if tree.version == 2 else ",".join(tree.controllers) or tree.name
        # v1 trees are always the container's own part: without a cgroup namespace the whole would be the host's.
        steps.append(CgroupBind(tree.mountpoint + cgroup_path, f"{target}/{name}", clean, beside_others=True))
        if len(tree.controllers) > 1 and tree.version == 1:
            steps += [Link(name, f"{target}/{controller}") for controller in tree.controllers]
    if options.read_only:
        steps.append(Remount(target, m.ATTR_RDONLY))
    return steps


def _device_steps(linux: Linux, mounts: list[Mount]) -> list[Step]:
    if any(mount.get("destination", "").rstrip("/") == "/dev" and _is_bind(mount) for mount in mounts):
        return []  # the host's own /dev: nothing is made in it
    listed = {device.get("path"): device for device in (*DEFAULT_DEVICES, *(linux.get("devices") or []))}
    # A terminal's multiplexer has to be the container's own, whatever the spec lists (runtime-spec "Default devices").
    listed.pop("/dev/ptmx", None)
    steps: list[Step] = [_device_step(device) for device in listed.values()]
    steps += [Link(text, path) for text, path in DEFAULT_LINKS]
    return steps


def _is_bind(mount: Mount) -> bool:
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options") or []))


def _device_step(device: Device) -> MakeDevice:
    kind = device.get("type", "c")
    mode = device.get("fileMode")
    return MakeDevice(
        path=os.path.normpath(device.get("path", "")),
        kind="c" if kind == "u" else kind,
        major=device.get("major", 0),
        minor=device.get("minor", 0),
        mode=0o666 if mode is None else mode & 0o7777,
        uid=device.get("uid") or 0,
        gid=device.get("gid") or 0,
    )
