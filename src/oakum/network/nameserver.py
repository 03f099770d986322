# SPDX-License-Identifier: Apache-2.0
"""The address of a sandbox's own name server, and what in its network namespace leads there.

The server listens on ports of the kernel's choice, since programs of the sandbox may want port 53 of all addresses for
themselves. Packets to and from the address have their ports exchanged, without connections being tracked for that.
Who answers there is the shim's business.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from oakum.errors import SystemFailure
from oakum.linux.netns import inside
from oakum.linux.nftables import Nftables

# As Docker's.
ADDRESS: Final = "127.0.0.11"
_TABLE: Final = "oakum-names"
_PORT: Final = 53
_BACKLOG: Final = 128
# Above what programs choose and the kernel gives to those who do not.
_PORTS: Final = range(61000, 65536)
_TRIES: Final = 16


def listen(netns_fd: int, *, subject: str) -> tuple[socket.socket, socket.socket]:
    """Sockets for a server in a network namespace, UDP and TCP. Raises SystemFailure."""

    def both() -> tuple[socket.socket, socket.socket]:
        udp = _bound(socket.SOCK_DGRAM)
        try:
            tcp = _bound(socket.SOCK_STREAM)
            tcp.listen(_BACKLOG)
        except OSError:
            udp.close()
            raise
        return udp, tcp

    try:
        return inside(netns_fd, both, subject=subject)
    except OSError as error:
        raise SystemFailure.from_os_error(error, "open name server's sockets", subject) from error


def _bound(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        for _ in range(_TRIES):
            try:
                sock.bind((ADDRESS, _PORTS[int.from_bytes(os.urandom(4), "big") % len(_PORTS)]))
            except OSError:
                continue  # somebody has it
            return sock
        sock.bind((ADDRESS, 0))
    except OSError:
        sock.close()
        raise
    return sock


def redirect(netns_fd: int, udp_port: int, tcp_port: int, *, subject: str) -> None:
    """Have these ports be port 53 for all in a network namespace. Idempotent. Raises SystemFailure, Unimplemented."""

    def write() -> None:
        with Nftables() as nftables:
            nftables.run(
                render_rules(udp_port, tcp_port), operation="lead to the name server", subject=subject
            )

    inside(netns_fd, write, subject=subject)


def render_rules(udp_port: int, tcp_port: int) -> str:
    """The rules as one transaction in nft's language."""
    ports = (("udp", udp_port), ("tcp", tcp_port))
    questions = [f"ip daddr {ADDRESS} {kind} dport {_PORT} {kind} dport set {port}" for kind, port in ports]
    answers = [f"ip saddr {ADDRESS} {kind} sport {port} {kind} sport set {_PORT}" for kind, port in ports]
    return "\n".join(
        [
            f"add table ip {_TABLE}",
            # After and before whatever the sandbox itself has between these: all of it sees port 53 both ways.
            *_chain("questions", "300", questions),
            *_chain("answers", "raw", answers),
        ]
    )


def _chain(name: str, priority: str, rules: list[str]) -> list[str]:
    # Flushed, not deleted: where nothing was, nothing goes, for which the kernel would wait for all its processors.
    return [
        f"add chain ip {_TABLE} {name} {{ type filter hook output priority {priority}; policy accept; }}",
        f"flush chain ip {_TABLE} {name}",
        *(f"add rule ip {_TABLE} {name} {rule}" for rule in rules),
    ]
