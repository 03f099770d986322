# SPDX-License-Identifier: Apache-2.0
"""The options of `oakum oci update` as linux.resources. Pure."""

from __future__ import annotations

from oakum.cli.oci.arguments import Parsed
from oakum.errors import InvalidArgument
from oakum.model.light import TYPE_CHECKING
from oakum.oci.spec import LinuxResources, parse_resources

if TYPE_CHECKING:
    from typing import Any, Final

# option → where its value goes, and whether it is text
_MEMBERS: Final = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_TEXTS: Final = frozenset({"cpuset-cpus", "cpuset-mems"})
_UNITS: Final = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def resources_of(given: Parsed, document: dict[str, Any] | None) -> LinuxResources:
    """What to set: the document if there is one, else the options. Raises InvalidArgument."""
    if document is not None:
        return parse_resources(document)
    resources: dict[str, Any] = {}
    for option, (group, member) in _MEMBERS.items():
        if option in given.options:
            text = given.text(option)
            resources.setdefault(group, {})[member] = text if option in _TEXTS else _number(option, text)
    return parse_resources(resources)


def _number(option: str, text: str) -> int:
    plain = text.strip().upper().removesuffix("IB")
    digits = plain.rstrip("BKMGT")
    unit = _UNITS.get(plain[len(digits) :])
    if unit is None or not digits.removeprefix("-").isdecimal() or not digits.isascii():
        raise InvalidArgument("read command line", f"--{option} {text!r}", "not a number")
    if unit != 1 and not option.startswith("memory"):
        raise InvalidArgument("read command line", f"--{option} {text!r}", "this number takes no unit")
    return int(digits) * unit
