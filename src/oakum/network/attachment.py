# SPDX-License-Identifier: Apache-2.0
"""Value types of the network: what a sandbox asks for and what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

INTERFACE: Final = "eth0"


class PortRequest(Protocol):
    """A host port that shall lead to the sandbox; `host_port` 0 asks for none.

    `protocol` is "tcp", "udp" or "sctp"; `host_ip` empty means every address of the host.
    """

    @property
    def container_port(self) -> int:
        """The port inside."""
        ...

    @property
    def host_port(self) -> int:
        """The port on the host."""
        ...

    @property
    def protocol(self) -> str:
        """The transport protocol."""
        ...

    @property
    def host_ip(self) -> str:
        """The host's address, or none in particular."""
        ...


class AttachmentOptions(NamedTuple):
    """What a sandbox wants of its network beyond ports; empty and 0 mean "not said".

    Rates are bits a second as the sandbox sees them: `ingress` is what it receives. `names` (host name, name, short id)
    and `aliases` are what others of a network find it by; without names it is not found. `relay` says that the
    caller carries what comes to ports on ::1. `dns_*`, `pod_*`, `annotations`,
    `cgroup_path`, `device_id`, `infiniband_guid` and `arguments` are for CNI plugins.
    """

    addresses: tuple[str, ...] = ()
    mac: str = ""
    ingress_bits_per_s: int = 0
    egress_bits_per_s: int = 0
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    pod_name: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""
    annotations: Mapping[str, str] = {}
    cgroup_path: str = ""
    device_id: str = ""
    infiniband_guid: str = ""
    arguments: dict[str, str] = {}
    names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    relay: bool = False


class Attachment(NamedTuple):
    """A sandbox's place in a network.

    `addresses` has IPv4 first and then, where the host has it, IPv6; `gateways` answers it one to one.
    `warnings` says what could not be done, for people. `dns_*` is what the network itself says of name resolution.
    """

    sandbox_id: str
    network: str
    netns_path: str
    host_interface: str
    addresses: tuple[str, ...]
    prefix_lengths: tuple[int, ...]
    gateways: tuple[str, ...]
    mac: str
    mtu: int
    interface: str = INTERFACE
    hostname: str = ""
    warnings: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]


class InterfaceCounters(NamedTuple):
    """Traffic of a sandbox's interface as seen from inside."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int
    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int
