# SPDX-License-Identifier: Apache-2.0
"""Options about the network as the user types them: published ports, extra hosts, name servers."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from oakum.backend.config import PortMapping
from oakum.errors import InvalidArgument, ResourceExhausted

_HINT = "try 8080:80, 127.0.0.1:8080:80 or 53:53/udp"


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address in its usual form."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def _bad(text: str, cause: str) -> InvalidArgument:
    return InvalidArgument("parse --publish", repr(text), cause, hint=_HINT)


def _range(text: str, part: str) -> range:
    low_text, dash, high_text = part.partition("-")
    ends: list[int] = []
    for number in (low_text, high_text if dash else low_text):
        if not (number.isascii() and number.isdecimal()) or len(number) > 5 or not 1 <= int(number) <= 65535:
            raise _bad(text, f"{number!r} is no port")
        ends.append(int(number))
    if ends[1] < ends[0]:
        raise _bad(text, f"the range {part} runs backwards")
    return range(ends[0], ends[1] + 1)


def _split(text: str, body: str) -> tuple[str, str, str]:
    """Host address, host ports, container ports; the first two may be empty."""
    host_ip = ""
    if body.startswith("["):
        host_ip, bracket, body = body[1:].partition("]")
        if not bracket or not body.startswith(":"):
            raise _bad(text, "the bracket of the address is not closed")
        body = body[1:]
        if ":" not in body:
            raise _bad(text, "an address needs HOST:CONTAINER ports behind it")
        host_ports, _, container_ports = body.partition(":")
    else:
        parts = body.split(":")
        if len(parts) > 3:
            raise _bad(text, "too many colons; an IPv6 address goes into brackets")
        container_ports = parts[-1]
        host_ports = parts[-2] if len(parts) > 1 else ""
        host_ip = parts[0] if len(parts) == 3 else ""
    if host_ip and not is_address(host_ip):
        raise _bad(text, f"{host_ip!r} is no address")
    return host_ip, host_ports, container_ports


def parse_publish(text: str) -> tuple[PortMapping, ...]:
    """The ports that "[IP:]HOST:CONTAINER[/PROTOCOL]" publishes; ranges of equal length give several.

    A `host_port` of 0 asks for any free one (see `assign_free_ports`).

    Raises:
        InvalidArgument: not such a text.
    """
    body, slash, protocol = text.strip().partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise _bad(text, f"{protocol!r} is not tcp, udp or sctp")
    host_ip, host_ports, container_ports = _split(text, body)
    inside = _range(text, container_ports)
    outside: Iterable[int] = _range(text, host_ports) if host_ports else [0] * len(inside)
    outside = list(outside)
    if len(outside) != len(inside):
        raise _bad(text, f"{len(outside)} host ports for {len(inside)} container ports")
    return tuple(
        PortMapping(container_port=c, host_port=h, protocol=protocol, host_ip=host_ip)
        for h, c in zip(outside, inside, strict=True)
    )


def assign_free_ports(mappings: Iterable[PortMapping]) -> tuple[PortMapping, ...]:
    """The same mappings, with a free port of this host wherever `host_port` was 0.

    The port is not held until the network takes it; when another process is faster, the network refuses it.

    Raises:
        ResourceExhausted: the kernel gives none.
    """
    taken: list[PortMapping] = []
    for mapping in mappings:
        if mapping.host_port:
            taken.append(mapping)
            continue
        family = socket.AF_INET6 if ":" in mapping.host_ip else socket.AF_INET
        kind = socket.SOCK_DGRAM if mapping.protocol == "udp" else socket.SOCK_STREAM
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((mapping.host_ip, 0))
                port = probe.getsockname()[1]
        except OSError as error:
            raise ResourceExhausted("find free port", mapping.host_ip, str(error.strerror)) from error
        taken.append(
            PortMapping(
                container_port=mapping.container_port,
                host_port=port,
                protocol=mapping.protocol,
                host_ip=mapping.host_ip,
            )
        )
    return tuple(taken)


def parse_add_host(text: str) -> tuple[str, str]:
    """(name, address) of "NAME:ADDRESS" or "NAME=ADDRESS".

    Raises:
        InvalidArgument: not such a text.
    """
    cut = min((i for i in (text.find("="), text.find(":")) if i >= 0), default=-1)
    name, address = (text[:cut], text[cut + 1 :].strip("[]")) if cut > 0 else ("", "")
    if (
        not name
        or any(c.isspace() or not c.isprintable() or c == "#" for c in name)
        or not is_address(address)
    ):
        raise InvalidArgument("parse --add-host", repr(text), "not NAME:ADDRESS", hint="try db:10.0.0.5")
    return name, address


def check_name_server(text: str) -> str:
    """`text` if it is an address, as resolv.conf(5) wants.

    Raises:
        InvalidArgument: it is not.
    """
    if not is_address(text):
        raise InvalidArgument("parse --dns", repr(text), "not an address", hint="try 9.9.9.9")
    return text


def check_host_name(text: str, option: str = "--hostname") -> str:
    """`text` if it may be a host name: hostname(7), at most 64 bytes (sethostname(2)).

    Raises:
        InvalidArgument: it may not.
    """
    allowed = text.isascii() and all(c.isalnum() or c in "-._" for c in text)
    if not text or len(text) > 64 or not allowed or text[0] in "-.":
        raise InvalidArgument(
            f"parse {option}",
            repr(text),
            "not a host name",
            hint="use letters, digits, '-' and '.', at most 64",
        )
    return text
