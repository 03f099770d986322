# SPDX-License-Identifier: Apache-2.0
"""Reaching a port inside a pod: its loopback, IPv4 then IPv6, through its network namespace or the host's own.

Only the socket is made inside (`linux.netns`): it stays there wherever it is used from.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

from oakum.errors import FailedPrecondition, Unavailable
from oakum.linux.netns import inside, open_netns
from oakum.streaming.source import StreamSource
from oakum.streaming.threads import in_thread

_CONNECT_S: Final = 30.0
_PLACES: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Dialer:
    """Ways into one pod; its namespace is looked up anew for each connection, as a pod may end."""

    def __init__(self, source: StreamSource, sandbox_id: str) -> None:
        self._source = source
        self._sandbox_id = sandbox_id

    async def connect(self, port: int) -> socket.socket:
        """A connected, non-blocking socket to what listens on `port` of the pod's loopback.

        Raises:
            FailedPrecondition, NotFound: the pod is not (any more) there.
            Unavailable: nobody listens there, or nobody answers.
        """
        causes: list[str] = []
        for family, address in _PLACES:
            try:
                sock = await in_thread(
                    lambda family=family: self._socket(family), unwanted=socket.socket.close
                )
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:  # a kernel without IPv6
                    raise Unavailable("forward port", str(port), str(error.strerror)) from error
                continue
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await asyncio.get_running_loop().sock_connect(sock, (address, port))
            except (OSError, TimeoutError) as error:
                sock.close()
                causes.append(f"{address}: {os.strerror(error.errno) if error.errno else 'no answer'}")
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise Unavailable(
            "forward port",
            f"{port} of pod {self._sandbox_id[:12]}",
            "; ".join(causes),
            hint="does it listen on loopback?",
        )

    def _socket(self, family: socket.AddressFamily) -> socket.socket:
        netns_path = self.check()
        if not netns_path:
            return _new_socket(family)
        with open_netns(netns_path) as netns:
            return inside(netns.fileno(), lambda: _new_socket(family), subject=netns_path)

    def check(self) -> str:
        """The pod's network namespace, "" for the host's. Raises OakumError when the pod is not ready."""
        status = self._source.sandbox_status(self._sandbox_id)
        if status.state != "ready":
            raise FailedPrecondition(
                "forward port", f"of pod {self._sandbox_id[:12]}", "the pod is not ready"
            )
        if not status.netns_path and status.config.namespaces.network != "node":
            raise FailedPrecondition("forward port", f"of pod {self._sandbox_id[:12]}", "it has no network")
        return status.netns_path


def _new_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
