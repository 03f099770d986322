# SPDX-License-Identifier: Apache-2.0
"""The runtime-spec's config.json as types, and `parse`, which turns outside JSON into them or says what is wrong where.

Owns the shape of the document. What the values mean for a kernel is planned in `plan`; unknown members are kept and
ignored, as the specification demands. Spec: runtime-spec 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypedDict, cast

from oakum.errors import InvalidArgument
from oakum.linux.namespaces import FLAGS as NAMESPACES


class IdMapping(TypedDict):
    """`size` ids from `containerID` inside are `hostID` and on outside."""

    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    """One mount; `type` "bind" or an option "bind"/"rbind" makes it a bind mount of `source`."""

    destination: str
    source: str
    type: str
    options: list[str]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]


class User(TypedDict, total=False):
    """Numeric identity of the process."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]


class Box(TypedDict):
    """Size of a terminal in characters."""

    height: int
    width: int


class Rlimit(TypedDict):
    """A POSIX resource limit ("RLIMIT_NOFILE")."""

    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    """The five capability sets, by name ("CAP_CHOWN")."""

    bounding: list[str]
    effective: list[str]
    permitted: list[str]
    inheritable: list[str]
    ambient: list[str]


class Process(TypedDict, total=False):
    """What is executed and as whom."""

    terminal: bool
    consoleSize: Box
    user: User
    args: list[str]
    env: list[str]
    cwd: str
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    selinuxLabel: str
    oomScoreAdj: int


class Root(TypedDict, total=False):
    """The root file system's directory, relative to the bundle unless absolute."""

    path: str
    readonly: bool


class Namespace(TypedDict, total=False):
    """A namespace to make, or with `path` to join."""

    type: str
    path: str


class Device(TypedDict, total=False):
    """A device node to make."""

    path: str
    type: str
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class DeviceRule(TypedDict, total=False):
    """One line of the device cgroup."""

    allow: bool
    type: str
    major: int
    minor: int
    access: str


class LinuxResources(TypedDict, total=False):
    """Limits; see `oci.cgroups.values` for what becomes of each."""

    devices: list[DeviceRule]
    memory: dict[str, Any]
    cpu: dict[str, Any]
    pids: dict[str, Any]
    blockIO: dict[str, Any]
    hugepageLimits: list[dict[str, Any]]
    unified: dict[str, str]


class Linux(TypedDict, total=False):
    """The part of the document that only Linux has."""

    namespaces: list[Namespace]
    uidMappings: list[IdMapping]
    gidMappings: list[IdMapping]
    devices: list[Device]
    cgroupsPath: str
    resources: LinuxResources
    rootfsPropagation: str
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str


class Hook(TypedDict, total=False):
    """A program that is run at a point of the container's life; `timeout` in seconds."""

    path: str
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """The hooks by the point of life where they run; see `oci.hooks`."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Spec(TypedDict, total=False):
    """A whole config.json."""

    ociVersion: str
    root: Root
    process: Process
    hostname: str
    domainname: str
    mounts: list[Mount]
    linux: Linux
    hooks: Hooks
    annotations: dict[str, str]


_Check = Callable[[Any, str], None]
_U32: Final = 0xFFFFFFFF
_I64: Final = 0x7FFFFFFFFFFFFFFF


def parse(data: object) -> Spec:
    """`data` (decoded JSON) as a Spec.

    Raises:
        InvalidArgument: names the member ("$.process.user.uid") and what is wrong with it.
    """
    _SPEC(data, "$")
    return cast(Spec, data)


def parse_process(data: object) -> Process:
    """`data` as a process object, for exec. Raises InvalidArgument."""
    _PROCESS(data, "$")
    return cast(Process, data)


def parse_resources(data: object) -> LinuxResources:
    """`data` as linux.resources, for update. Raises InvalidArgument."""
    _RESOURCES(data, "$")
    return cast(LinuxResources, data)


def _fail(path: str, why: str, hint: str = "") -> InvalidArgument:
    return InvalidArgument("read OCI spec", path, why, hint=hint)


def _text(*, absolute: bool = False, empty: bool = True, limit: int = 1 << 20) -> _Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise _fail(path, f"{_kind(value)} where text belongs")
        if "\0" in value:
            raise _fail(path, "text with a NUL byte")
        try:
            size = len(value.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise _fail(path, "text with a lone surrogate") from None
        if size > limit:
            raise _fail(path, f"text longer than {limit} bytes")
        if not empty and not value:
            raise _fail(path, "empty text")
        if absolute and not value.startswith("/"):
            raise _fail(path, f"{value!r} is not an absolute path")

    return check


def _choice(*allowed: str) -> _Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise _fail(path, f"{value!r} is none of {', '.join(a for a in allowed if a)}")

    return check


def _whole(lowest: int = 0, highest: int = _I64) -> _Check:
    def check(value: Any, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _fail(path, f"{_kind(value)} where a whole number belongs")
        if not lowest <= value <= highest:
            raise _fail(path, f"{value} is not within {lowest} and {highest}")

    return check


def _flag(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise _fail(path, f"{_kind(value)} where true or false belongs")


def _array(item: _Check, *, limit: int = 65536, nonempty: bool = False) -> _Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise _fail(path, f"{_kind(value)} where an array belongs")
        items = cast(list[Any], value)
        if len(items) > limit:
            raise _fail(path, f"more than {limit} items")
        if nonempty and not items:
            raise _fail(path, "empty array")
        for index, member in enumerate(items):
            item(member, f"{path}[{index}]")

    return check


def _mapping(item: _Check) -> _Check:
    def check(value: Any, path: str) -> None:
        for key, member in _members(value, path).items():
            _KEY(key, f"{path} key")
            item(member, f"{path}.{key}")

    return check


def _object(fields: dict[str, _Check], *, required: tuple[str, ...] = ()) -> _Check:
    def check(value: Any, path: str) -> None:
        members = _members(value, path)
        for name in required:
            if name not in members:
                raise _fail(f"{path}.{name}", "missing")
        for name, member in members.items():
            inner = fields.get(name)
            # JSON null stands for an absent member; encoders of some languages write it.
            if inner is not None and member is not None:
                inner(member, f"{path}.{name}")
            elif member is None and name in required:
                raise _fail(f"{path}.{name}", "null")

    return check


def _members(value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _fail(path, f"{_kind(value)} where an object belongs")
    return cast(dict[Any, Any], value)


def _kind(value: object) -> str:
    names = {
        "NoneType": "null",
        "bool": "a truth value",
        "int": "a number",
        "float": "a fraction",
        "str": "text",
    }
    return names.get(type(value).__name__, "an array" if isinstance(value, list) else "an object")


def _env(value: Any, path: str) -> None:
    _text()(value, path)
    if value.startswith("="):
        raise _fail(path, f"{value!r} has no name before '='")


def _device_fields(value: Any, path: str) -> None:
    _DEVICE_MEMBERS(value, path)
    if value["type"] in ("c", "u", "b") and ("major" not in value or "minor" not in value):
        raise _fail(path, "a device needs major and minor")


def _sysctls(value: Any, path: str) -> None:
    _mapping(_text())(value, path)
    for key in value:
        if any(not part for part in key.replace("/", ".").split(".")):
            raise _fail(f"{path}.{key}", "not the name of a sysctl", "write it as net.ipv4.ip_forward")


def _linux(value: Any, path: str) -> None:
    _LINUX_MEMBERS(value, path)
    seen: set[str] = set()
    for index, namespace in enumerate(value.get("namespaces") or ()):
        kind = namespace["type"]
        if kind in seen:
            raise _fail(f"{path}.namespaces[{index}]", f"a second namespace of type {kind!r}")
        seen.add(kind)


_KEY: Final = _text(limit=4096)
_ID: Final = _whole(0, _U32 - 1)
_MAPPINGS: Final = _array(
    _object(
        {"containerID": _ID, "hostID": _ID, "size": _whole(1, _U32)},
        required=("containerID", "hostID", "size"),
    ),
    limit=340,  # user_namespaces(7)
)
_SIGNED: Final = _whole(-1, _I64)
_CAPABILITY_NAMES: Final = _array(_text(empty=False, limit=64), limit=256)
_DEVICE_MEMBERS: Final = _object(
    {
        "path": _text(absolute=True),
        "type": _choice("c", "b", "u", "p"),
        "major": _whole(0, _U32),
        "minor": _whole(0, _U32),
        "fileMode": _whole(0, 0o7777777),
        "uid": _ID,
        "gid": _ID,
    },
    required=("path", "type"),
)
_PROCESS: Final = _object(
    {
        "terminal": _flag,
        "consoleSize": _object(
            {"height": _whole(0, 65535), "width": _whole(0, 65535)}, required=("height", "width")
        ),
        "user": _object(
            {"uid": _ID, "gid": _ID, "umask": _whole(0, 0o777), "additionalGids": _array(_ID)},
        ),
        "args": _array(_text(limit=1 << 17), nonempty=True),
        "env": _array(_env),
        "cwd": _text(absolute=True),
        "capabilities": _object(
            dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), _CAPABILITY_NAMES)
        ),
        "rlimits": _array(
            _object(
                {
                    "type": _text(empty=False),
                    "soft": _whole(0, 0xFFFFFFFFFFFFFFFF),
                    "hard": _whole(0, 0xFFFFFFFFFFFFFFFF),
                },
                required=("type", "soft", "hard"),
            ),
            limit=64,
        ),
        "noNewPrivileges": _flag,
        "apparmorProfile": _text(),
        "selinuxLabel": _text(),
        "oomScoreAdj": _whole(-1000, 1000),
    },
    required=("args", "cwd"),
)
_DEVICE_RULE: Final = _object(
    {
        "allow": _flag,
        "type": _choice("", "a", "b", "c"),
        "major": _whole(-1, _U32),
        "minor": _whole(-1, _U32),
        "access": _text(limit=8),
    },
    required=("allow",),
)
_THROTTLE: Final = _array(
    _object(
        {"major": _whole(0, _U32), "minor": _whole(0, _U32), "rate": _whole()},
        required=("major", "minor", "rate"),
    )
)
_RESOURCES: Final = _object(
    {
        "devices": _array(_DEVICE_RULE),
        "memory": _object(
            {
                "limit": _SIGNED,
                "reservation": _SIGNED,
                "swap": _SIGNED,
                "kernel": _SIGNED,
                "kernelTCP": _SIGNED,
                "swappiness": _whole(0, 200),
                "disableOOMKiller": _flag,
                "useHierarchy": _flag,
                "checkBeforeUpdate": _flag,
            }
        ),
        "cpu": _object(
            {
                "shares": _whole(),
                "quota": _SIGNED,
                "burst": _whole(),
                "period": _whole(),
                "realtimeRuntime": _SIGNED,
                "realtimePeriod": _whole(),
                "cpus": _text(limit=4096),
                "mems": _text(limit=4096),
                "idle": _whole(0, 1),
            }
        ),
        "pids": _object({"limit": _whole(-1, _I64)}),
        "blockIO": _object(
            {
                "weight": _whole(0, 1000),
                "leafWeight": _whole(0, 1000),
                "throttleReadBpsDevice": _THROTTLE,
                "throttleWriteBpsDevice": _THROTTLE,
                "throttleReadIOPSDevice": _THROTTLE,
                "throttleWriteIOPSDevice": _THROTTLE,
            }
        ),
        "hugepageLimits": _array(
            _object(
                {"pageSize": _text(empty=False, limit=32), "limit": _whole()}, required=("pageSize", "limit")
            )
        ),
        "unified": _mapping(_text()),
    }
)
_LINUX_MEMBERS: Final = _object(
    {
        "namespaces": _array(
            _object({"type": _choice(*NAMESPACES), "path": _text()}, required=("type",)), limit=16
        ),
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "devices": _array(_device_fields),
        "cgroupsPath": _text(limit=4096),
        "resources": _RESOURCES,
        "rootfsPropagation": _choice(
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
        "maskedPaths": _array(_text(absolute=True)),
        "readonlyPaths": _array(_text(absolute=True)),
        "mountLabel": _text(),
    }
)
_HOOKS: Final = _array(
    _object(
        {
            "path": _text(absolute=True),
            "args": _array(_text()),
            "env": _array(_text()),
            "timeout": _whole(1, _U32),
        },
        required=("path",),
    ),
    limit=256,
)
_SPEC: Final = _object(
    {
        "ociVersion": _text(limit=64),
        "root": _object({"path": _text(empty=False), "readonly": _flag}, required=("path",)),
        "process": _PROCESS,
        "hostname": _text(limit=64),
        "domainname": _text(limit=64),
        "mounts": _array(
            _object(
                {
                    "destination": _text(empty=False),
                    "source": _text(),
                    "type": _text(limit=64),
                    "options": _array(_text()),
                    "uidMappings": _MAPPINGS,
                    "gidMappings": _MAPPINGS,
                },
                required=("destination",),
            )
        ),
        "linux": _linux,
        "hooks": _object(
            dict.fromkeys(
                ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"),
                _HOOKS,
            )
        ),
        "annotations": _mapping(_text()),
    },
    required=("ociVersion",),
)
