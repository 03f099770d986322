# SPDX-License-Identifier: Apache-2.0
"""Host ports: what a request means, and whether the host still has them free."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from oakum.errors import AlreadyExists, InvalidArgument, OakumError, SystemFailure, Unimplemented
from oakum.network.attachment import PortRequest

ANY4: Final = "0.0.0.0"  # noqa: S104 - what users write for "all addresses"
ANY6: Final = "::"
# Where the kernel forwards nothing from: who publishes here has to carry it.
LOOPBACK6: Final = "::1"
_RELAYED_PROTOCOLS: Final = frozenset({"tcp", "udp"})
_BACKLOG: Final = 4096
_PROTOCOLS: Final = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


class Binding(NamedTuple):
    """One host port of one address family; `host_ip` may be `ANY4` or `ANY6`."""

    protocol: str
    host_ip: str
    host_port: int
    container_port: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host_ip else 4

    @property
    def is_any(self) -> bool:
        """Whether it holds for every address of the host."""
        return self.host_ip in (ANY4, ANY6)

    @property
    def is_relayed(self) -> bool:
        """Whether a process carries what comes to it, instead of the kernel."""
        return self.host_ip == LOOPBACK6

    def clashes_with(self, other: Binding) -> bool:
        """Whether both want the same port of the same address."""
        return (
            (self.protocol, self.host_port, self.version) == (other.protocol, other.host_port, other.version)
        ) and (self.host_ip == other.host_ip or self.is_any or other.is_any)

    def __str__(self) -> str:
        host = f"[{self.host_ip}]" if self.version == 6 else self.host_ip
        return f"{host}:{self.host_port}/{self.protocol}"


def plan_bindings(
    requests: Iterable[PortRequest], *, with_ipv6: bool, with_relay: bool = False
) -> list[Binding]:
    """The bindings that requests mean; no host address means IPv4 and, `with_ipv6`, IPv6.

    `with_relay`, the caller carries what comes to ::1.

    Raises:
        InvalidArgument: a port, protocol or address that is none, or two requests for one host port.
        Unimplemented: the host address ::1 without a relay, or with SCTP.
    """
    planned: list[Binding] = []
    for request in requests:
        if request.host_port == 0:
            continue
        for binding in _bindings(request, with_ipv6=with_ipv6, with_relay=with_relay):
            if binding in planned:
                continue
            if any(binding.clashes_with(other) for other in planned):
                raise InvalidArgument("publish port", str(binding), "asked for twice in one sandbox")
            planned.append(binding)
    return planned


def _bindings(request: PortRequest, *, with_ipv6: bool, with_relay: bool) -> list[Binding]:
    for kind, port in (("host", request.host_port), ("container", request.container_port)):
        if not 1 <= port <= 0xFFFF:
            raise InvalidArgument("publish port", str(port), f"not a {kind} port", hint="use 1 to 65535")
    if request.protocol not in _PROTOCOLS:
        raise InvalidArgument("publish port", str(request.host_port), f"no protocol {request.protocol!r}")
    if request.host_ip:
        try:
            hosts = [str(ipaddress.ip_address(request.host_ip))]
        except ValueError as error:
            raise InvalidArgument("publish port", repr(request.host_ip), str(error)) from error
        if hosts == [LOOPBACK6] and not (with_relay and request.protocol in _RELAYED_PROTOCOLS):
            raise Unimplemented(
                "publish port",
                f"[::1]:{request.host_port}",
                f"{request.protocol} from ::1 cannot be forwarded",
                hint="use 127.0.0.1",
            )
    else:
        hosts = [ANY4, ANY6]
    if not with_ipv6:
        asked, hosts = hosts, [host for host in hosts if ":" not in host or host == LOOPBACK6]
        if not hosts:
            raise InvalidArgument("publish port", asked[0], "the network has no IPv6")
    return [Binding(request.protocol, host, request.host_port, request.container_port) for host in hosts]


def check_free(bindings: Sequence[Binding]) -> None:
    """Try each port by binding it for a moment, in the calling thread's network namespace.

    Raises:
        AlreadyExists: a process of the host has it.
        InvalidArgument: the host has no such address.
    """
    for binding in bindings:
        try:
            _try_to_bind(binding)
        except OSError as error:
            raise _cannot_bind(error, binding) from error


def _cannot_bind(error: OSError, binding: Binding) -> OakumError:
    if error.errno == errno.EADDRINUSE:
        return AlreadyExists(
            "publish port",
            str(binding),
            "a process on this host uses it",
            hint="stop it or choose another host port; `ss -lnp` shows who has it",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidArgument(
            "publish port", str(binding), "the host has no such address", hint="see `ip address`"
        )
    return SystemFailure.from_os_error(error, "bind", str(binding))


def listen(binding: Binding) -> socket.socket:
    """A socket at a host port that is to be relayed, in the calling thread's network namespace.

    A relay that is about to end may still have it (SO_REUSEPORT); any other process may not. Raises as `check_free`.
    """
    kind, protocol = _PROTOCOLS[binding.protocol]
    try:
        sock = socket.socket(socket.AF_INET6, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((binding.host_ip, binding.host_port))
            if binding.protocol == "tcp":
                sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise _cannot_bind(error, binding) from error
    return sock


def _try_to_bind(binding: Binding) -> None:
    kind, protocol = _PROTOCOLS[binding.protocol]
    family = socket.AF_INET6 if binding.version == 6 else socket.AF_INET
    try:
        probe = socket.socket(family, kind, protocol)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
            return  # where the kernel has no such sockets, nobody listens
        raise
    with probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if binding.protocol == "tcp":
            # Closed connections of the last holder (TIME_WAIT) are no obstacle; listeners stay one.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((binding.host_ip, binding.host_port))
