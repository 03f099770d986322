# SPDX-License-Identifier: Apache-2.0
"""What a seccomp profile says, and how one is read from the JSON that Docker, containerd and the kubelet use.

Owns the values and their checks; the default profile is in `engine.seccomp.default`, BPF in
`engine.seccomp.compiler`. A profile file may come from anybody: everything in it is checked.

Spec: OCI runtime-spec 1.2 config-linux.md "Seccomp", and Docker's archMap, includes and excludes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from oakum.errors import InvalidArgument

_EPERM: Final = 1
# Action name of the runtime spec → whether it carries a number.
ACTIONS: Final = {
    "SCMP_ACT_KILL": False,
    "SCMP_ACT_KILL_THREAD": False,
    "SCMP_ACT_KILL_PROCESS": False,
    "SCMP_ACT_TRAP": False,
    "SCMP_ACT_ERRNO": True,
    "SCMP_ACT_TRACE": True,
    "SCMP_ACT_ALLOW": False,
    "SCMP_ACT_LOG": False,
}
NOTIFY: Final = "SCMP_ACT_NOTIFY"
OPERATORS: Final = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)
MACHINE_ARCH: Final = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "armv7l": "SCMP_ARCH_ARM",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "riscv64": "SCMP_ARCH_RISCV64",
    "s390x": "SCMP_ARCH_S390X",
}
# The names that Docker's includes and excludes use for machines.
_DOCKER_MACHINE: Final = {
    "x86_64": ("amd64", "x32", "x86"),
    "aarch64": ("arm64", "arm"),
    "armv7l": ("arm",),
    "ppc64le": ("ppc64le",),
    "riscv64": ("riscv64",),
    "s390x": ("s390x", "s390"),
}


class Compare(NamedTuple):
    """A condition on one argument; `value_two` only with SCMP_CMP_MASKED_EQ, where `value` is the mask."""

    argument: int
    operator: str
    value: int
    value_two: int = 0


class Rule(NamedTuple):
    """What happens on these calls when all conditions hold."""

    names: tuple[str, ...]
    action: str = "SCMP_ACT_ALLOW"
    errno: int = _EPERM
    args: tuple[Compare, ...] = ()


class Profile(NamedTuple):
    """A whole profile for one machine; `arches` are further system call tables that it covers."""

    default_action: str
    default_errno: int
    arches: tuple[str, ...]
    rules: tuple[Rule, ...]


def parse(
    text: bytes,
    *,
    subject: str,
    machine: str,
    capabilities: Sequence[str],
    kernel: tuple[int, int],
    notify: bool = False,
) -> Profile:
    """A profile file as it applies to this machine and to a container with these capabilities.

    With `notify` there is an agent that calls may be handed to.

    Raises:
        InvalidArgument: it is not a profile, or asks for what cannot be done.
    """
    try:
        data: object = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidArgument("read seccomp profile", subject, str(error)) from error
    reader = _Reader(subject, machine, frozenset(capabilities), kernel)
    reader.actions = {*ACTIONS, NOTIFY} if notify else set(ACTIONS)
    return reader.profile(reader.mapping(data, "$"))


class _Reader:
    """Reads one file, and knows where it is for error messages."""

    def __init__(
        self, subject: str, machine: str, capabilities: frozenset[str], kernel: tuple[int, int]
    ) -> None:
        self._subject = subject
        self._machine = machine
        self._capabilities = capabilities
        self._kernel = kernel
        self.actions: set[str] = set(ACTIONS)

    def fail(self, path: str, cause: str) -> InvalidArgument:
        return InvalidArgument("read seccomp profile", f"{self._subject} {path}", cause)

    def mapping(self, value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(path, "not an object")
        return cast("dict[str, Any]", value)

    def items(self, value: object, path: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fail(path, "not an array")
        return cast("list[Any]", value)

    def texts(self, value: object, path: str) -> tuple[str, ...]:
        found = self.items(value, path)
        if not all(isinstance(item, str) for item in found):
            raise self.fail(path, "not an array of strings")
        return tuple(found)

    def number(self, value: object, path: str, limit: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise self.fail(path, f"not a number from 0 to {limit}")
        return value

    def action(self, value: object, path: str) -> str:
        if not isinstance(value, str) or value not in self.actions:
            raise self.fail(path, f"{value!r} is not an action we can do")
        return value

    def profile(self, data: dict[str, Any]) -> Profile:
        default_errno = self.number(data.get("defaultErrnoRet", _EPERM), "$.defaultErrnoRet", 4095)
        rules: list[Rule] = []
        for index, item in enumerate(self.items(data.get("syscalls"), "$.syscalls")):
            path = f"$.syscalls[{index}]"
            entry = self.mapping(item, path)
            if self.applies(entry, path):
                rules.append(self.rule(entry, path))
        return Profile(
            self.action(data.get("defaultAction"), "$.defaultAction"),
            default_errno,
            self.arches(data),
            tuple(rules),
        )

    def arches(self, data: dict[str, Any]) -> tuple[str, ...]:
        native = MACHINE_ARCH.get(self._machine, "")
        for index, item in enumerate(self.items(data.get("archMap"), "$.archMap")):
            entry = self.mapping(item, f"$.archMap[{index}]")
            if entry.get("architecture") == native:
                return self.texts(entry.get("subArchitectures"), f"$.archMap[{index}].subArchitectures")
        return tuple(a for a in self.texts(data.get("architectures"), "$.architectures") if a != native)

    def applies(self, entry: dict[str, Any], path: str) -> bool:
        includes = self.mapping(entry.get("includes") or {}, f"{path}.includes")
        excludes = self.mapping(entry.get("excludes") or {}, f"{path}.excludes")
        machines = _DOCKER_MACHINE.get(self._machine, (self._machine,))
        arches = self.texts(includes.get("arches"), f"{path}.includes.arches")
        if arches and not set(arches) & set(machines):
            return False
        if not self._capabilities.issuperset(self.texts(includes.get("caps"), f"{path}.includes.caps")):
            return False
        minimum = includes.get("minKernel")
        if minimum is not None and self._kernel < self.kernel(minimum, f"{path}.includes.minKernel"):
            return False
        if set(self.texts(excludes.get("arches"), f"{path}.excludes.arches")) & set(machines):
            return False
        if self._capabilities & set(self.texts(excludes.get("caps"), f"{path}.excludes.caps")):
            return False
        maximum = excludes.get("minKernel")
        return maximum is None or self._kernel < self.kernel(maximum, f"{path}.excludes.minKernel")

    def kernel(self, value: object, path: str) -> tuple[int, int]:
        major, _, minor = value.partition(".") if isinstance(value, str) else ("", "", "")
        if not (major.isdecimal() and minor.isdecimal()):
            raise self.fail(path, "not a kernel version such as 4.8")
        return int(major), int(minor)

    def rule(self, entry: dict[str, Any], path: str) -> Rule:
        names = self.texts(
            entry.get("names") or ([entry["name"]] if entry.get("name") else []), f"{path}.names"
        )
        if not names:
            raise self.fail(path, "names no system call")
        args: list[Compare] = []
        for index, item in enumerate(self.items(entry.get("args"), f"{path}.args")):
            where = f"{path}.args[{index}]"
            arg = self.mapping(item, where)
            operator = arg.get("op")
            if not isinstance(operator, str) or operator not in OPERATORS:
                raise self.fail(f"{where}.op", f"{operator!r} is not an operator")
            args.append(
                Compare(
                    self.number(arg.get("index"), f"{where}.index", 5),
                    operator,
                    self.number(arg.get("value"), f"{where}.value", 2**64 - 1),
                    self.number(arg.get("valueTwo", 0), f"{where}.valueTwo", 2**64 - 1),
                )
            )
        errno = self.number(entry.get("errnoRet", _EPERM), f"{path}.errnoRet", 4095)
        return Rule(names, self.action(entry.get("action"), f"{path}.action"), errno, tuple(args))
