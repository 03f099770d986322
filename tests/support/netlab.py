# SPDX-License-Identifier: Apache-2.0
"""A small network made for one test: a host, pods, and a machine outside, each a network namespace of its own.

The calling thread stands in the host's namespace while a `Lab` is open, so the machine's own is never touched.
Sockets of every place live in the test's process: there is no process to start or to forget.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from oakum.linux.namespaces import CLONE_NEWNET, setns, unshare
from oakum.linux.netns import inside, own_netns
from tests.support.patience import patient

HOST4, OUTSIDE4 = "192.0.2.2", "192.0.2.1"
HOST6, OUTSIDE6 = "fd00:6f61::2", "fd00:6f61::1"
_Result = TypeVar("_Result")


class Place:
    """A network namespace held by a descriptor."""

    def __init__(self) -> None:
        made: list[int] = []

        def make() -> None:
            unshare(CLONE_NEWNET)
            made.append(own_netns().steal())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        self.fd = made[0]
        self._sockets: list[socket.socket] = []

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def disconnect(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def close(self) -> None:
        self.disconnect()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def run(self, *command: str) -> str:
        return subprocess.run(
            ["nsenter", f"--net=/proc/self/fd/{self.fd}", *command],
            check=True,
            capture_output=True,
            text=True,
            pass_fds=[self.fd],
        ).stdout

    def ip(self, *arguments: str) -> Any:
        output = self.run("ip", "-j", *arguments)
        return json.loads(output) if output.strip() else []

    def do(self, action: Callable[[], _Result]) -> _Result:
        return inside(self.fd, action)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        made = self.do(lambda: socket.socket(family, kind, protocol))
        made.settimeout(patient(5))
        self._sockets.append(made)
        return made

    def listen(self, address: str, port: int) -> socket.socket:
        server = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen(16)
        return server

    def bind_udp(self, address: str, port: int) -> socket.socket:
        server = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, port))
        return server

    def connect(self, address: str, port: int, *, timeout_s: float = 0) -> socket.socket:
        client = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(timeout_s or patient(5))
        client.connect((address, port))
        return client


class Here(Place):
    """The namespace in which the calling thread stands."""

    def __init__(self) -> None:
        self.fd = own_netns().steal()
        self._sockets: list[socket.socket] = []


class Lab:
    """The calling thread's stay in a host of its own, with a machine outside that is its default route."""

    def __init__(self) -> None:
        self._home = own_netns()
        self._pods: list[Place] = []
        unshare(CLONE_NEWNET)
        self.host = Here()
        self.outside = Place()
        self._wire()

    def _wire(self) -> None:
        self.shell("ip link set lo up")
        self.outside.run("ip", "link", "set", "lo", "up")
        subprocess.run(
            [
                "ip",
                "link",
                "add",
                "up0",
                "type",
                "veth",
                "peer",
                "name",
                "out0",
                "netns",
                f"/proc/self/fd/{self.outside.fd}",
            ],
            check=True,
            pass_fds=[self.outside.fd],
        )
        self.shell(
            f"ip addr add {HOST4}/24 dev up0; ip -6 addr add {HOST6}/64 dev up0 nodad; ip link set up0 up;"
            f"ip route add default via {OUTSIDE4}; ip -6 route add default via {OUTSIDE6}"
        )
        self.outside.run(
            "sh",
            "-ec",
            f"ip addr add {OUTSIDE4}/24 dev out0; ip -6 addr add {OUTSIDE6}/64 dev out0 nodad; ip link set out0 up",
        )
        self.shell("ip -6 route replace default via " + OUTSIDE6)

    def shell(self, script: str) -> str:
        done = subprocess.run(["sh", "-ec", script], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def ip(self, *arguments: str) -> Any:
        return json.loads(self.shell("ip -j " + " ".join(arguments)) or "[]")

    def nft(self, what: str) -> list[dict[str, Any]]:
        listed = json.loads(self.shell(f"nft -j list {what}"))["nftables"]
        return [entry for entry in listed if "metainfo" not in entry]

    def pod(self) -> Place:
        place = Place()
        self._pods.append(place)
        return place

    def close(self) -> None:
        for place in (*self._pods, self.outside, self.host):
            place.close()
        setns(self._home.fileno(), CLONE_NEWNET)
        self._home.close()
