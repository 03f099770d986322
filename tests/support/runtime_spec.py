# SPDX-License-Identifier: Apache-2.0
"""The members that runtime-spec 1.3 has for Linux, as a table, and every way to get one of them wrong.

A line of `FIELDS` is a path ("[]" an array's item, "{}" a member of any name), "!" when it is required, its kind, and a
value it may have. From that come `document`, which has every member, and `mistakes`, one wrong document each.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
I32, I64 = (1 << 31) - 1, (1 << 63) - 1
# kind → values that no member of that kind may have, beside those of other types
_TEXTS: Final[dict[str, tuple[object, ...]]] = {
    "text": ("nul\0",),
    "word": ("", "no such word"),
    "path": ("", "relative", "nul\0"),
    "version": ("", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "0.9.0", "2.0.0"),
    "rlimit": ("", "NOFILE", "RLIMIT_NOSUCH"),
    "page": ("", "2M", "MB", "0MB", "2mb", "2 MB"),
    "cpus": ("all", "0;1"),
    "interface": ("", "a/b", "a b", ".", "sixteen-letters.."),
    "access": ("rwx",),
    "bandwidth": ("L3:0=f", "MB:0=10\nMB:1=10"),
    "line": ("two\nlines",),
    "entry": ("=value", "nul\0"),
}
_RANGES: Final[dict[str, tuple[int, int]]] = {
    "u32": (0, U32),
    "u64": (0, U64),
    "i32": (-I32 - 1, I32),
    "i64": (-I64 - 1, I64),
    "id": (0, U32 - 1),  # all ones means "no id" to the kernel
    "size": (1, U32),
    "limit": (-1, I64),
    "umask": (0, 0o777),
    "mode": (0, 0o7777777),  # callers write the type of the file, too
    "oom": (-1000, 1000),
    "weight": (0, 1000),
    "swappiness": (0, 200),
    "window": (0, U16),
    "priority": (0, 7),
    "once": (0, 1),
    "number": (-1, U32),
    "index": (0, 5),
    "nanoseconds": (0, 999_999_999),
    "seconds": (1, U32),
}
FIELDS: Final = """
ociVersion!                                         version    "1.3.0"
root                                                object
root.path!                                          text       "rootfs"
root.readonly                                       bool       false
hostname                                            text       "box"
domainname                                          text       "example"
mounts                                              array
mounts[]                                            object
mounts[].destination!                               text       "/data"
mounts[].source                                     text       "/tmp"
mounts[].type                                       text       "bind"
mounts[].options                                    array
mounts[].options[]                                  text       "rbind"
mounts[].uidMappings                                array
mounts[].uidMappings[]                              object
mounts[].uidMappings[].containerID!                 id         0
mounts[].uidMappings[].hostID!                      id         1000
mounts[].uidMappings[].size!                        size       10
mounts[].gidMappings                                array
mounts[].gidMappings[]                              object
mounts[].gidMappings[].containerID!                 id         0
mounts[].gidMappings[].hostID!                      id         1000
mounts[].gidMappings[].size!                        size       10
process                                             object
process.terminal                                    bool       true
process.consoleSize                                 object
process.consoleSize.height!                         window     25
process.consoleSize.width!                          window     80
process.cwd!                                        path       "/"
process.env                                         array
process.env[]                                       entry      "PATH=/bin"
process.args!                                       array
process.args[]                                      text       "true"
process.rlimits                                     array
process.rlimits[]                                   object
process.rlimits[].type!                             rlimit     "RLIMIT_NOFILE"
process.rlimits[].soft!                             u64        1024
process.rlimits[].hard!                             u64        18446744073709551615
process.apparmorProfile                             text       "unconfined"
process.capabilities                                object
process.capabilities.bounding                       array
process.capabilities.bounding[]                     text       "CAP_CHOWN"
process.capabilities.effective                      array
process.capabilities.effective[]                    text       "CAP_CHOWN"
process.capabilities.permitted                      array
process.capabilities.permitted[]                    text       "CAP_CHOWN"
process.capabilities.inheritable                    array
process.capabilities.inheritable[]                  text       "CAP_CHOWN"
process.capabilities.ambient                        array
process.capabilities.ambient[]                      text       "CAP_CHOWN"
process.noNewPrivileges                             bool       true
process.oomScoreAdj                                 oom        100
process.scheduler                                   object
process.scheduler.policy!                           word       "SCHED_OTHER"
process.scheduler.nice                              i32        0
process.scheduler.priority                          i32        0
process.scheduler.flags                             array
process.scheduler.flags[]                           word       "SCHED_FLAG_RESET_ON_FORK"
process.scheduler.runtime                           u64        0
process.scheduler.deadline                          u64        0
process.scheduler.period                            u64        0
process.selinuxLabel                                text       ""
process.ioPriority                                  object
process.ioPriority.class!                           word       "IOPRIO_CLASS_BE"
process.ioPriority.priority                         priority   4
process.execCPUAffinity                             object
process.execCPUAffinity.initial                     cpus       "0"
process.execCPUAffinity.final                       cpus       "0-1"
process.user                                        object
process.user.uid                                    id         0
process.user.gid                                    id         0
process.user.umask                                  umask      18
process.user.additionalGids                         array
process.user.additionalGids[]                       id         5
hooks                                               object
hooks.prestart                                      array
hooks.prestart[]                                    object
hooks.prestart[].path!                              path       "/bin/true"
hooks.prestart[].args                               array
hooks.prestart[].args[]                             text       "true"
hooks.prestart[].env                                array
hooks.prestart[].env[]                              text       "A=b"
hooks.prestart[].timeout                            seconds    5
hooks.createRuntime                                 array
hooks.createRuntime[]                               object
hooks.createRuntime[].path!                         path       "/bin/true"
hooks.createContainer                               array
hooks.createContainer[]                             object
hooks.createContainer[].path!                       path       "/bin/true"
hooks.startContainer                                array
hooks.startContainer[]                              object
hooks.startContainer[].path!                        path       "/bin/true"
hooks.poststart                                     array
hooks.poststart[]                                   object
hooks.poststart[].path!                             path       "/bin/true"
hooks.poststop                                      array
hooks.poststop[]                                    object
hooks.poststop[].path!                              path       "/bin/true"
annotations                                         map
annotations{}                                       text       "value"
linux                                               object
linux.namespaces                                    array
linux.namespaces[]                                  object
linux.namespaces[].type!                            word       "mount"
linux.namespaces[].path                             text       ""
linux.uidMappings                                   array
linux.uidMappings[]                                 object
linux.uidMappings[].containerID!                    id         0
linux.uidMappings[].hostID!                         id         1000
linux.uidMappings[].size!                           size       10
linux.gidMappings                                   array
linux.gidMappings[]                                 object
linux.gidMappings[].containerID!                    id         0
linux.gidMappings[].hostID!                         id         1000
linux.gidMappings[].size!                           size       10
linux.timeOffsets                                   object
linux.timeOffsets.monotonic                         object
linux.timeOffsets.monotonic.secs                    i64        1
linux.timeOffsets.monotonic.nanosecs                nanoseconds 1
linux.timeOffsets.boottime                          object
linux.timeOffsets.boottime.secs                     i64        -1
linux.timeOffsets.boottime.nanosecs                 nanoseconds 1
linux.devices                                       array
linux.devices[]                                     object
linux.devices[].type!                               word       "c"
linux.devices[].path!                               path       "/dev/x"
linux.devices[].major!                              u32        1
linux.devices[].minor!                              u32        3
linux.devices[].fileMode                            mode       432
linux.devices[].uid                                 id         0
linux.devices[].gid                                 id         0
linux.netDevices                                    map
linux.netDevices{}                                  object
linux.netDevices{}.name                             interface  "eth1"
linux.cgroupsPath                                   text       "/oakum-test"
linux.resources                                     object
linux.resources.devices                             array
linux.resources.devices[]                           object
linux.resources.devices[].allow!                    bool       false
linux.resources.devices[].type                      word       "c"
linux.resources.devices[].major                     number     10
linux.resources.devices[].minor                     number     -1
linux.resources.devices[].access                    access     "rwm"
linux.resources.memory                              object
linux.resources.memory.limit                        limit      67108864
linux.resources.memory.reservation                  limit      67108864
linux.resources.memory.swap                         limit      67108864
linux.resources.memory.kernel                       limit      -1
linux.resources.memory.kernelTCP                    limit      -1
linux.resources.memory.swappiness                   swappiness 0
linux.resources.memory.disableOOMKiller             bool       false
linux.resources.memory.useHierarchy                 bool       false
linux.resources.memory.checkBeforeUpdate            bool       false
linux.resources.cpu                                 object
linux.resources.cpu.shares                          u64        1024
linux.resources.cpu.quota                           limit      100000
linux.resources.cpu.burst                           u64        0
linux.resources.cpu.period                          u64        100000
linux.resources.cpu.realtimeRuntime                 limit      0
linux.resources.cpu.realtimePeriod                  u64        0
linux.resources.cpu.cpus                            cpus       "0-1"
linux.resources.cpu.mems                            cpus       "0"
linux.resources.cpu.idle                            once       0
linux.resources.blockIO                             object
linux.resources.blockIO.weight                      weight     100
linux.resources.blockIO.leafWeight                  weight     100
linux.resources.blockIO.weightDevice                array
linux.resources.blockIO.weightDevice[]              object
linux.resources.blockIO.weightDevice[].major!       u32        8
linux.resources.blockIO.weightDevice[].minor!       u32        0
linux.resources.blockIO.weightDevice[].weight       weight     100
linux.resources.blockIO.weightDevice[].leafWeight   weight     100
linux.resources.blockIO.throttleReadBpsDevice       array
linux.resources.blockIO.throttleReadBpsDevice[]     object
linux.resources.blockIO.throttleReadBpsDevice[].major!   u32   8
linux.resources.blockIO.throttleReadBpsDevice[].minor!   u32   0
linux.resources.blockIO.throttleReadBpsDevice[].rate!    u64   600
linux.resources.blockIO.throttleWriteBpsDevice      array
linux.resources.blockIO.throttleWriteBpsDevice[]    object
linux.resources.blockIO.throttleWriteBpsDevice[].major!  u32   8
linux.resources.blockIO.throttleWriteBpsDevice[].minor!  u32   0
linux.resources.blockIO.throttleWriteBpsDevice[].rate!   u64   600
linux.resources.blockIO.throttleReadIOPSDevice      array
linux.resources.blockIO.throttleReadIOPSDevice[]    object
linux.resources.blockIO.throttleReadIOPSDevice[].major!  u32   8
linux.resources.blockIO.throttleReadIOPSDevice[].minor!  u32   0
linux.resources.blockIO.throttleReadIOPSDevice[].rate!   u64   600
linux.resources.blockIO.throttleWriteIOPSDevice     array
linux.resources.blockIO.throttleWriteIOPSDevice[]   object
linux.resources.blockIO.throttleWriteIOPSDevice[].major! u32   8
linux.resources.blockIO.throttleWriteIOPSDevice[].minor! u32   0
linux.resources.blockIO.throttleWriteIOPSDevice[].rate!  u64   600
linux.resources.hugepageLimits                      array
linux.resources.hugepageLimits[]                    object
linux.resources.hugepageLimits[].pageSize!          page       "2MB"
linux.resources.hugepageLimits[].limit!             u64        0
linux.resources.network                             object
linux.resources.network.classID                     u32        1048577
linux.resources.network.priorities                  array
linux.resources.network.priorities[]                object
linux.resources.network.priorities[].name!          interface  "lo"
linux.resources.network.priorities[].priority!      u32        5
linux.resources.pids                                object
linux.resources.pids.limit                          limit      100
linux.resources.rdma                                map
linux.resources.rdma{}                              object
linux.resources.rdma{}.hcaHandles                   u32        3
linux.resources.rdma{}.hcaObjects                   u32        10
linux.resources.unified                             map
linux.resources.unified{}                           text       "64"
linux.rootfsPropagation                             word       "rprivate"
linux.seccomp                                       object
linux.seccomp.defaultAction!                        word       "SCMP_ACT_ERRNO"
linux.seccomp.defaultErrnoRet                       u32        1
linux.seccomp.architectures                         array
linux.seccomp.architectures[]                       text       "SCMP_ARCH_X86_64"
linux.seccomp.flags                                 array
linux.seccomp.flags[]                               text       "SECCOMP_FILTER_FLAG_LOG"
linux.seccomp.listenerPath                          text       ""
linux.seccomp.listenerMetadata                      text       ""
linux.seccomp.syscalls                              array
linux.seccomp.syscalls[]                            object
linux.seccomp.syscalls[].names!                     array
linux.seccomp.syscalls[].names[]                    text       "mkdir"
linux.seccomp.syscalls[].action!                    word       "SCMP_ACT_ERRNO"
linux.seccomp.syscalls[].errnoRet                   u32        1
linux.seccomp.syscalls[].args                       array
linux.seccomp.syscalls[].args[]                     object
linux.seccomp.syscalls[].args[].index!              index      0
linux.seccomp.syscalls[].args[].value!              u64        1
linux.seccomp.syscalls[].args[].valueTwo            u64        0
linux.seccomp.syscalls[].args[].op!                 word       "SCMP_CMP_EQ"
linux.sysctl                                        map
linux.sysctl{}                                      line       "1"
linux.maskedPaths                                   array
linux.maskedPaths[]                                 path       "/proc/keys"
linux.readonlyPaths                                 array
linux.readonlyPaths[]                               path       "/proc/sys"
linux.mountLabel                                    text       ""
linux.intelRdt                                      object
linux.intelRdt.closID                               text       "guaranteed"
linux.intelRdt.schemata                             array
linux.intelRdt.schemata[]                           line       "L3:0=f"
linux.intelRdt.l3CacheSchema                        line       "L3:0=f"
linux.intelRdt.memBwSchema                          bandwidth  "MB:0=20"
linux.intelRdt.enableMonitoring                     bool       false
linux.memoryPolicy                                  object
linux.memoryPolicy.mode!                            word       "MPOL_BIND"
linux.memoryPolicy.nodes                            cpus       "0"
linux.memoryPolicy.flags                            array
linux.memoryPolicy.flags[]                          word       "MPOL_F_STATIC_NODES"
linux.personality                                   object
linux.personality.domain!                           word       "LINUX"
linux.personality.flags                             array
"""
_KEYS: Final = {
    "annotations": "org.example",
    "linux.netDevices": "eth9",
    "linux.resources.rdma": "mlx5_1",
} | {
    "linux.resources.unified": "pids.max",
    "linux.sysctl": "net.ipv4.ip_forward",
}
# arrays that have to have an item
_FILLED: Final = ("process.args", "linux.seccomp.syscalls[].names")


class Field(NamedTuple):
    """One member: `steps` lead to it in `document`, `name` is how an error names it."""

    table_path: str
    required: bool
    kind: str
    good: Any
    steps: tuple[str | int, ...]

    @property
    def name(self) -> str:
        """Its JSON path."""
        return "$" + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps)


class Mistake(NamedTuple):
    """A document that is wrong at `field` only."""

    what: str
    field: Field
    document: dict[str, Any]


def fields() -> list[Field]:
    """The table."""
    found: list[Field] = []
    for line in FIELDS.split("\n"):
        if line:
            path, kind, *good = line.split(None, 2)
            value = json.loads(good[0]) if good else None
            plain = path.removesuffix("!")
            found.append(Field(plain, path.endswith("!"), kind, value, _steps(plain)))
    return found


def _steps(path: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    so_far = ""
    for part in path.replace("[]", ".[]").replace("{}", ".{}").split("."):
        if part == "[]":
            steps.append(0)
        elif part == "{}":
            steps.append(_KEYS[so_far])
        else:
            steps.append(part)
        so_far += part if part in ("[]", "{}") else f".{part}" if so_far else part
    return tuple(steps)


def document() -> dict[str, Any]:
    """A document with every member, each as it should be."""
    made: dict[str, Any] = {}
    empty: dict[str, type] = {"object": dict, "map": dict, "array": list}
    for field in fields():
        value = empty[field.kind]() if field.kind in empty else field.good
        where = _parent(made, field)
        if isinstance(where, list):
            where.append(value)
        else:
            where[field.steps[-1]] = value
    return made


def mistakes() -> Iterator[Mistake]:
    """Every required member missing, and every member of each wrong type, out of range or not among its words."""
    whole = document()
    for field in fields():
        if field.required:
            yield _changed(whole, field, "missing", missing=True)
        for value in _wrong(field):
            yield _changed(whole, field, f"{value!r:.40}", value)


def _wrong(field: Field) -> list[object]:
    wrong: list[object] = []
    for accepted, example in (
        (("bool",), True),
        ((*_RANGES,), 1),
        (("float",), 1.5),
        ((*_TEXTS,), "text"),
        (("array",), []),
        (("object", "map"), {}),
    ):
        if field.kind not in accepted:
            wrong.append(example)
    if field.kind in _RANGES:
        lowest, highest = _RANGES[field.kind]
        wrong += [lowest - 1, highest + 1, -(1 << 200), 1 << 200]
    wrong += _TEXTS.get(field.kind, ())
    if field.required:
        wrong.append(None)
    if field.table_path in _FILLED:
        wrong.append([])
    # What may be empty may be empty: those words mean "any" and "as it is".
    if field.table_path in ("linux.resources.devices[].type", "linux.rootfsPropagation"):
        wrong.remove("")
    return wrong


def _changed(
    whole: dict[str, Any], field: Field, what: str, value: object = None, *, missing: bool = False
) -> Mistake:
    changed = copy.deepcopy(whole)
    where = _parent(changed, field)
    if missing:
        del where[field.steps[-1]]
    else:
        where[field.steps[-1]] = value
    return Mistake(what, field, changed)


def _parent(whole: dict[str, Any], field: Field) -> Any:
    where: Any = whole
    for step in field.steps[:-1]:
        where = where[step]
    return where
