# SPDX-License-Identifier: Apache-2.0
"""Platforms as images name them, and which of several this host runs best. Pure but for one uname."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

# uname's machine → (architecture, variant) in Go's names, which images use
_MACHINES: Final = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "riscv64": ("riscv64", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
}
# What else a processor runs, best first
_ALSO_RUNS: Final = {
    "amd64": (("386", ""),),
    "arm64": (("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")),
}


class Platform(NamedTuple):
    """An operating system and a processor: "linux/arm64/v8". Empty fields say nothing."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part) or "unknown"

    def normalized(self) -> Platform:
        """The same platform in the one spelling that comparisons use."""
        architecture = _ALIASES.get(self.architecture.lower(), self.architecture.lower())
        variant = self.variant.lower()
        if architecture == "arm64" and variant in ("", "8"):
            variant = "v8"
        elif architecture == "arm":
            variant = f"v{variant}" if variant.isdecimal() else variant or "v7"
        elif architecture == "amd64" and variant == "v1":
            variant = ""
        return Platform(self.os.lower(), architecture, variant)


def host_platform() -> Platform:
    """This machine's platform."""
    machine = os.uname().machine
    return Platform("linux", *_MACHINES.get(machine, (machine, "")))


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` serves `wanted`: 0 is best, None not at all. What an image leaves unsaid fits all."""
    wanted, offered = wanted.normalized(), offered.normalized()
    if offered.os and offered.os != wanted.os:
        return None
    if not offered.architecture:
        return 99
    for position, choice in enumerate(_choices(wanted)):
        if (offered.architecture, offered.variant) == choice:
            return position
    return None


def _choices(wanted: Platform) -> list[tuple[str, str]]:
    choices = [(wanted.architecture, wanted.variant)]
    if wanted.architecture in ("arm", "amd64") and wanted.variant[1:].isdecimal():
        lowest = 5 if wanted.architecture == "arm" else 2
        choices += [
            (wanted.architecture, f"v{n}") for n in range(int(wanted.variant[1:]) - 1, lowest - 1, -1)
        ]
    if wanted.architecture == "amd64" and wanted.variant:
        choices.append(("amd64", ""))
    return [*choices, *_ALSO_RUNS.get(wanted.architecture, ())]
