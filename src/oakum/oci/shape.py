# SPDX-License-Identifier: Apache-2.0
"""The shape of config.json: every member that the runtime-spec has for Linux, its type and its range.

What this runtime does not do is checked here all the same, and refused where it is planned. Members that the
specification does not have are kept and ignored, as it demands. Spec: runtime-spec 1.3, config.md and config-linux.md.
"""

from __future__ import annotations

from oakum.linux.namespaces import FLAGS as NAMESPACES
from oakum.model.light import TYPE_CHECKING
from oakum.oci.checks import I64, U32, U64, array, choice, fail, flag, mapping, obj, text, whole

if TYPE_CHECKING:
    from typing import Any, Final

    from oakum.oci.checks import Check

# Source: getrlimit(2), asm-generic/resource.h: the numbers are so on all architectures that we have system calls for.
RLIMITS: Final = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_WINDOW: Final = 0xFFFF  # struct winsize
_IDENTIFIER: Final = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-.")
_DIGITS: Final = frozenset("0123456789")


def _version(value: Any, path: str) -> None:
    """A semantic version whose first number is 1: what later ones mean nobody knows yet."""
    text(limit=64)(value, path)
    release, plus, build = value.partition("+")
    numbers, dash, before = release.partition("-")
    parts = numbers.split(".")
    well_formed = (
        len(parts) == 3
        and all(part and _DIGITS.issuperset(part) and (part == "0" or part[0] != "0") for part in parts)
        and (not dash or _identifiers(before, leading_zeros=False))
        and (not plus or _identifiers(build, leading_zeros=True))
    )
    if not well_formed:
        raise fail(path, f"{value!r} is not a semantic version", "write it as 1.2.0")
    if parts[0] != "1":
        raise fail(path, f"version {value!r} is not supported", "this runtime knows versions 1.x.y")


def _identifiers(value: str, *, leading_zeros: bool) -> bool:
    return all(
        part
        and _IDENTIFIER.issuperset(part)
        and (leading_zeros or len(part) == 1 or part[0] != "0" or not _DIGITS.issuperset(part))
        for part in value.split(".")
    )


def _letters(allowed: str, what: str, *, limit: int = 4096) -> Check:
    known = frozenset(allowed)

    def check(value: Any, path: str) -> None:
        text(limit=limit)(value, path)
        if not known.issuperset(value):
            raise fail(path, f"{value!r} is not {what}")

    return check


def _empty_or_absolute(value: Any, path: str) -> None:
    text()(value, path)
    if value and not value.startswith("/"):
        raise fail(path, f"{value!r} is not an absolute path")


def _one_line(value: Any, path: str) -> None:
    text()(value, path)
    if "\n" in value:
        raise fail(path, "more than one line")


def _bandwidth(value: Any, path: str) -> None:
    _one_line(value, path)
    if value and not value.startswith("MB:"):
        raise fail(path, f"{value!r} does not begin with 'MB:'")


def _interface(value: Any, path: str) -> None:
    text(empty=False)(value, path)
    odd = any(letter in "/:" or letter.isspace() for letter in value)
    if odd or value in (".", "..") or len(value.encode("utf-8", "surrogateescape")) > 15:
        raise fail(path, f"{value!r} is not the name of a network interface")


def _page_size(value: Any, path: str) -> None:
    text(empty=False, limit=32)(value, path)
    number, unit = value[:-2], value[-2:]
    if unit not in ("KB", "MB", "GB") or not number or not _DIGITS.issuperset(number) or number[0] == "0":
        raise fail(path, f"{value!r} is not a page size", "write it as 2MB")


def _rlimit(value: Any, path: str) -> None:
    _RLIMIT_MEMBERS(value, path)
    if value["type"] not in RLIMITS:
        raise fail(f"{path}.type", f"{value['type']!r}: no such limit", "RLIMIT_NOFILE, for example")
    if value["soft"] > value["hard"]:
        raise fail(f"{path}.soft", f"{value['soft']} is above the hard limit {value['hard']}")


def _rlimits(value: Any, path: str) -> None:
    array(_rlimit, limit=64)(value, path)
    _distinct([limit["type"] for limit in value], path, "type", "limit")


def _distinct(values: list[str], path: str, member: str, what: str) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise fail(f"{path}[{index}].{member}", f"a second {what} of type {value!r}")


def _env(value: Any, path: str) -> None:
    text()(value, path)
    if value.startswith("="):
        raise fail(path, f"{value!r} has no name before '='")


def _process(value: Any, path: str) -> None:
    _PROCESS_MEMBERS(value, path)
    size = value.get("consoleSize")
    if value.get("terminal") and size:
        for member in ("height", "width"):
            whole(0, _WINDOW)(size[member], f"{path}.consoleSize.{member}")


def _device(value: Any, path: str) -> None:
    _DEVICE_MEMBERS(value, path)
    for member in ("major", "minor"):
        if value["type"] != "p" and value.get(member) is None:
            raise fail(f"{path}.{member}", "missing: only a fifo has none")


def _either(first: str, second: str, members: Check) -> Check:
    def check(value: Any, path: str) -> None:
        members(value, path)
        if value.get(first) is None and value.get(second) is None:
            raise fail(path, f"neither {first} nor {second}")

    return check


def _sysctls(value: Any, path: str) -> None:
    mapping(_one_line)(value, path)
    for key in value:
        if any(not part for part in key.replace("/", ".").split(".")):
            raise fail(f"{path}.{key}", "not the name of a sysctl", "write it as net.ipv4.ip_forward")


def _seccomp(value: Any, path: str) -> None:
    _SECCOMP_MEMBERS(value, path)
    _errno(value, "defaultAction", "defaultErrnoRet", path)
    for index, rule in enumerate(value.get("syscalls") or ()):
        _errno(rule, "action", "errnoRet", f"{path}.syscalls[{index}]")


def _errno(value: dict[str, Any], action: str, errno: str, path: str) -> None:
    if value.get(errno) is not None and value[action] not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        raise fail(f"{path}.{errno}", f"{value[action]} carries no number")


def _linux(value: Any, path: str) -> None:
    _LINUX_MEMBERS(value, path)
    kinds = [namespace["type"] for namespace in value.get("namespaces") or ()]
    _distinct(kinds, f"{path}.namespaces", "type", "namespace")


_ID: Final = whole(0, U32 - 1)
_I32: Final = whole(-(1 << 31), (1 << 31) - 1)
_MAPPINGS: Final = array(
    obj(
        {"containerID": _ID, "hostID": _ID, "size": whole(1, U32)}, required=("containerID", "hostID", "size")
    ),
    limit=340,  # user_namespaces(7)
)
_SIGNED: Final = whole(-1, I64)
_CPUS: Final = _letters("0123456789,-:/ ", "a list like 0-3,8")
_AFFINITY: Final = _letters("0123456789,- ", "a list like 0-3,8")
_CAPABILITY_NAMES: Final = array(text(empty=False, limit=64), limit=256)
_DEVICE_MEMBERS: Final = obj(
    {
        "path": text(absolute=True),
        "type": choice("c", "b", "u", "p"),
        "major": whole(0, U32),
        "minor": whole(0, U32),
        "fileMode": whole(0, 0o7777777),
        "uid": _ID,
        "gid": _ID,
    },
    required=("path", "type"),
)
_RLIMIT_MEMBERS: Final = obj(
    {"type": text(empty=False), "soft": whole(0, U64), "hard": whole(0, U64)},
    required=("type", "soft", "hard"),
)
_SCHEDULER: Final = obj(
    {
        "policy": choice(
            "SCHED_OTHER",
            "SCHED_FIFO",
            "SCHED_RR",
            "SCHED_BATCH",
            "SCHED_ISO",
            "SCHED_IDLE",
            "SCHED_DEADLINE",
        ),
        "nice": _I32,
        "priority": _I32,
        "flags": array(
            choice(
                "SCHED_FLAG_RESET_ON_FORK",
                "SCHED_FLAG_RECLAIM",
                "SCHED_FLAG_DL_OVERRUN",
                "SCHED_FLAG_KEEP_POLICY",
                "SCHED_FLAG_KEEP_PARAMS",
                "SCHED_FLAG_UTIL_CLAMP_MIN",
                "SCHED_FLAG_UTIL_CLAMP_MAX",
            )
        ),
        "runtime": whole(0, U64),
        "deadline": whole(0, U64),
        "period": whole(0, U64),
    },
    required=("policy",),
)
_PROCESS_MEMBERS: Final = obj(
    {
        "terminal": flag,
        "consoleSize": obj({"height": whole(0, U64), "width": whole(0, U64)}, required=("height", "width")),
        "user": obj(
            {"uid": _ID, "gid": _ID, "umask": whole(0, 0o777), "additionalGids": array(_ID)},
        ),
        "args": array(text(limit=1 << 17), nonempty=True),
        "env": array(_env),
        "cwd": text(absolute=True),
        "capabilities": obj(
            dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), _CAPABILITY_NAMES)
        ),
        "rlimits": _rlimits,
        "noNewPrivileges": flag,
        "apparmorProfile": text(),
        "selinuxLabel": text(),
        "oomScoreAdj": whole(-1000, 1000),
        "scheduler": _SCHEDULER,
        "ioPriority": obj(
            {
                "class": choice("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"),
                "priority": whole(0, 7),
            },
            required=("class",),
        ),
        "execCPUAffinity": obj({"initial": _AFFINITY, "final": _AFFINITY}),
    },
    required=("args", "cwd"),
)
_DEVICE_RULE: Final = obj(
    {
        "allow": flag,
        "type": choice("", "a", "b", "c"),
        "major": whole(-1, U32),
        "minor": whole(-1, U32),
        "access": _letters("rwm", "made of r, w and m", limit=8),
    },
    required=("allow",),
)
_NUMBERS: Final = {"major": whole(0, U32), "minor": whole(0, U32)}
_THROTTLE: Final = array(obj({**_NUMBERS, "rate": whole(0, U64)}, required=("major", "minor", "rate")))
_BLOCK_WEIGHT: Final = whole(0, 1000)
_BLOCK_IO: Final = obj(
    {
        "weight": _BLOCK_WEIGHT,
        "leafWeight": _BLOCK_WEIGHT,
        "weightDevice": array(
            _either(
                "weight",
                "leafWeight",
                obj(
                    {**_NUMBERS, "weight": _BLOCK_WEIGHT, "leafWeight": _BLOCK_WEIGHT},
                    required=("major", "minor"),
                ),
            )
        ),
        "throttleReadBpsDevice": _THROTTLE,
        "throttleWriteBpsDevice": _THROTTLE,
        "throttleReadIOPSDevice": _THROTTLE,
        "throttleWriteIOPSDevice": _THROTTLE,
    }
)
RESOURCES: Final = obj(
    {
        "devices": array(_DEVICE_RULE),
        "memory": obj(
            {
                "limit": _SIGNED,
                "reservation": _SIGNED,
                "swap": _SIGNED,
                "kernel": _SIGNED,
                "kernelTCP": _SIGNED,
                "swappiness": whole(0, 200),
                "disableOOMKiller": flag,
                "useHierarchy": flag,
                "checkBeforeUpdate": flag,
            }
        ),
        "cpu": obj(
            {
                "shares": whole(0, U64),
                "quota": _SIGNED,
                "burst": whole(0, U64),
                "period": whole(0, U64),
                "realtimeRuntime": _SIGNED,
                "realtimePeriod": whole(0, U64),
                "cpus": _CPUS,
                "mems": _CPUS,
                "idle": whole(0, 1),
            }
        ),
        "pids": obj({"limit": whole(-1, I64)}),
        "blockIO": _BLOCK_IO,
        "hugepageLimits": array(
            obj({"pageSize": _page_size, "limit": whole(0, U64)}, required=("pageSize", "limit"))
        ),
        "network": obj(
            {
                "classID": whole(0, U32),
                "priorities": array(
                    obj({"name": _interface, "priority": whole(0, U32)}, required=("name", "priority"))
                ),
            }
        ),
        "rdma": mapping(
            _either(
                "hcaHandles", "hcaObjects", obj({"hcaHandles": whole(0, U32), "hcaObjects": whole(0, U32)})
            )
        ),
        "unified": mapping(text()),
    }
)
_ACTION: Final = choice(
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
)
_OPERATORS: Final = [f"SCMP_CMP_{op}" for op in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]
_SECCOMP_MEMBERS: Final = obj(
    {
        "defaultAction": _ACTION,
        "defaultErrnoRet": whole(0, U32),
        "architectures": array(text(empty=False, limit=64)),
        "flags": array(text(empty=False, limit=64)),
        "listenerPath": _empty_or_absolute,
        "listenerMetadata": text(),
        "syscalls": array(
            obj(
                {
                    "names": array(text(empty=False, limit=256), nonempty=True),
                    "action": _ACTION,
                    "errnoRet": whole(0, U32),
                    "args": array(
                        obj(
                            {
                                "index": whole(0, 5),
                                "value": whole(0, U64),
                                "valueTwo": whole(0, U64),
                                "op": choice(*_OPERATORS),
                            },
                            required=("index", "value", "op"),
                        )
                    ),
                },
                required=("names", "action"),
            )
        ),
    },
    required=("defaultAction",),
)
_OFFSET: Final = obj({"secs": whole(-I64 - 1, I64), "nanosecs": whole(0, 999_999_999)})
_LINUX_MEMBERS: Final = obj(
    {
        "namespaces": array(
            obj({"type": choice(*NAMESPACES), "path": _empty_or_absolute}, required=("type",)), limit=16
        ),
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": obj({"boottime": _OFFSET, "monotonic": _OFFSET}),
        "devices": array(_device),
        "netDevices": mapping(obj({"name": _interface}), _interface),
        "cgroupsPath": text(limit=4096),
        "resources": RESOURCES,
        "intelRdt": obj(
            {
                "closID": text(limit=4096),
                "schemata": array(_one_line),
                "l3CacheSchema": _one_line,
                "memBwSchema": _bandwidth,
                "enableMonitoring": flag,
            }
        ),
        "memoryPolicy": obj(
            {
                "mode": choice(
                    "MPOL_DEFAULT",
                    "MPOL_BIND",
                    "MPOL_INTERLEAVE",
                    "MPOL_WEIGHTED_INTERLEAVE",
                    "MPOL_PREFERRED",
                    "MPOL_PREFERRED_MANY",
                    "MPOL_LOCAL",
                ),
                "nodes": _AFFINITY,
                "flags": array(
                    choice("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES")
                ),
            },
            required=("mode",),
        ),
        "personality": obj(
            {"domain": choice("LINUX", "LINUX32"), "flags": array(text())}, required=("domain",)
        ),
        "rootfsPropagation": choice(
            "",
            "shared",
            "slave",
            "private",
            "unbindable",
            "rshared",
            "rslave",
            "rprivate",
            "runbindable",
        ),
        "sysctl": _sysctls,
        "seccomp": _seccomp,
        "maskedPaths": array(text(absolute=True)),
        "readonlyPaths": array(text(absolute=True)),
        "mountLabel": text(),
    }
)
_HOOKS: Final = array(
    obj(
        {
            "path": text(absolute=True),
            "args": array(text()),
            "env": array(text()),
            "timeout": whole(1, U32),
        },
        required=("path",),
    ),
    limit=256,
)
PROCESS: Final[Check] = _process
SPEC: Final = obj(
    {
        "ociVersion": _version,
        "root": obj({"path": text(empty=False), "readonly": flag}, required=("path",)),
        "process": PROCESS,
        "hostname": text(limit=64),
        "domainname": text(limit=64),
        "mounts": array(
            obj(
                {
                    "destination": text(empty=False),
                    "source": text(),
                    "type": text(limit=64),
                    "options": array(text()),
                    "uidMappings": _MAPPINGS,
                    "gidMappings": _MAPPINGS,
                },
                required=("destination",),
            )
        ),
        "linux": _linux,
        "hooks": obj(
            dict.fromkeys(
                ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
                _HOOKS,
            )
        ),
        "annotations": mapping(text()),
    },
    required=("ociVersion",),
)
