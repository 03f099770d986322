# SPDX-License-Identifier: Apache-2.0
"""The host's kernel settings that a bridge network needs. What cannot be set is told, not raised."""

from __future__ import annotations

import os
from typing import Final

from oakum.linux.durable import read_file

_NET: Final = "/proc/sys/net"


def enable_ipv4(bridge: str) -> list[str]:
    """Forward IPv4, and let loopback clients reach pods on `bridge`; warnings."""
    return [
        *_ensure("ipv4/ip_forward", "1", "pods reach nothing beyond this host"),
        # Only for our bridge; the guard chain keeps pods from the host's loopback.
        *_ensure(f"ipv4/conf/{bridge}/route_localnet", "1", "published ports do not answer on 127.0.0.1"),
    ]


def enable_ipv6(bridge: str) -> list[str]:
    """Forward IPv6 without losing what the host learns from its routers; warnings."""
    if _read("ipv6/conf/all/forwarding") == "1":
        return []
    warnings: list[str] = []
    # A host that forwards ignores router advertisements (accept_ra 1): its own default route would expire.
    for name in _interfaces():
        if name not in ("all", bridge) and _read(f"ipv6/conf/{name}/accept_ra") == "1":
            warnings += _ensure(f"ipv6/conf/{name}/accept_ra", "2", f"{name} may lose its IPv6 route")
    return warnings + _ensure("ipv6/conf/all/forwarding", "1", "pods reach nothing over IPv6")


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 and it is not switched off."""
    return _read("ipv6/conf/all/disable_ipv6") == "0" and _read("ipv6/conf/default/disable_ipv6") == "0"


def has_tracked_flows() -> bool:
    """Whether the kernel tracks any flow in this thread's network namespace; True where it does not say."""
    return _read("netfilter/nf_conntrack_count") != "0"


def _interfaces() -> list[str]:
    try:
        return sorted(os.listdir(f"{_NET}/ipv6/conf"))
    except FileNotFoundError:
        return []


def _read(name: str) -> str:
    try:
        return read_file(f"{_NET}/{name}").decode("ascii").strip()
    except OSError:
        return ""  # not in this kernel, or the interface is gone


def _ensure(name: str, value: str, otherwise: str) -> list[str]:
    if _read(name) == value:
        return []
    try:
        with open(f"{_NET}/{name}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        return [f"cannot set net.{name.replace('/', '.')}={value}: {error.strerror}; {otherwise}"]
    return []
