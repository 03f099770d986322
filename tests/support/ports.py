# SPDX-License-Identifier: Apache-2.0
"""Ports that nobody listens on."""

from __future__ import annotations

import socket


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port of loopback that is free now, for IPv4 and IPv6."""
    with socket.socket(socket.AF_INET6, kind) as probe:
        probe.bind(("::", 0))
        return probe.getsockname()[1]
