# SPDX-License-Identifier: Apache-2.0
"""Which tracked flows have to be forgotten when host ports are opened or closed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from oakum.linux import rtnetlink
from oakum.linux.conntrack import forget_flows
from oakum.linux.netlink import NetlinkSocket
from oakum.network import sysctls
from oakum.network.database import PublishedPort


def forget_flows_to(route: NetlinkSocket, ports: Sequence[PublishedPort]) -> None:
    """Make clients that keep sending from one UDP socket follow a port that was opened or closed.

    The kernel looks into the port maps for the first packet of a flow only, and without a connection a flow has
    no end while packets come.
    """
    udp = [port.binding for port in ports if port.binding.protocol == "udp"]
    if not udp or not sysctls.has_tracked_flows():
        return  # looking for flows takes the kernel some 20 ms, however few there are
    own = {address.interface.ip for address in rtnetlink.list_addresses(route)}
    wanted = {
        (address, binding.host_port)
        for binding in udp
        for address in (own if binding.is_any else (ipaddress.ip_address(binding.host_ip),))
        if address.version == binding.version
    }
    for version in {address.version for address, _ in wanted}:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        forget_flows(family, socket.IPPROTO_UDP, lambda address, port: (address, port) in wanted)
