# SPDX-License-Identifier: Apache-2.0
"""`oakum network` and the network options of `oakum run`, as a user types them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Directories
from tests.kernel.cli_box import Box, opened
from tests.support.ports import free_port

# Of this process alone, so that runs beside each other do not meet.
SUBNET6 = f"fd6f:616b:{os.getpid() & 0xFFFF:x}:c::/64"


@pytest.fixture
def box(directories: Directories, tmp_path: Path) -> Iterator[Box]:
    with opened(directories, tmp_path) as box:
        yield box


def inspect(box: Box, name: str) -> dict[str, Any]:
    (found,) = json.loads(box("network", "inspect", name))
    return found


def attached(box: Box, name: str) -> dict[str, dict[str, Any]]:
    return {place["container"]: place for place in inspect(box, name)["attached"]}


def test_networks_are_made_chosen_connected_looked_at_and_removed(box: Box) -> None:
    assert box("network", "create", "back", "--subnet", SUBNET6, "--mtu", "1300") == "back\n"
    box("network", "create", "front")
    assert box("network", "ls", "-q").split() == ["default", "back", "front"]
    serve = ("sh", "-c", "while :; do echo ahoy | nc -l -p 80; done")
    port = free_port()
    both = ("--network", "back", "--network", "front", "--network-alias", "store", "-p", f"[::1]:{port}:80")
    box("run", "-d", "--name", "db", *both, box.image, *serve)
    box("run", "-d", "--name", "web", box.image, "sleep", "1000")
    assert {name: list(attached(box, name)) for name in ("back", "front")} == {
        "back": ["db"],
        "front": ["db"],
    }
    with socket.create_connection(("::1", port), timeout=20) as near:
        assert near.recv(16) == b"ahoy\n"
    assert f"[::1]:{port}->80/tcp" in box("ps")

    gateway = inspect(box, "back")["gateways"][0]
    chosen = (gateway.removesuffix(".1") + ".77", SUBNET6.removesuffix("/64") + "4d")
    mac = "02:00:00:00:00:4d"
    options = ("--ip", chosen[0], "--ip6", chosen[1], "--alias", "page", "--mac-address", mac)
    assert box("network", "connect", *options, "back", "web") == ""
    (web,) = json.loads(box("inspect", "web"))
    assert [(place["network"], place["interface"]) for place in web["networks"]] == [
        ("default", "eth0"),
        ("back", "eth1"),
    ]
    place = attached(box, "back")["web"]
    assert (place["interface"], place["mac"], place["mtu"]) == ("eth1", mac, 1300)
    assert box("exec", "web", "nc", "store", "80") == "ahoy\n"
    assert " 0% packet loss" in box("exec", "db", "ping6", "-c1", "-W5", "page")
    again = box.full("network", "connect", "back", "web")
    assert (again.returncode, b"container web is in it" in again.stderr) == (125, True)
    refused = box.full("network", "rm", "back")
    assert (refused.returncode, b"is connected to it, and 1 more" in refused.stderr) == (1, True)

    # What was asked for once holds whenever it starts, after its pod was lost as well.
    (shim,) = shims(place["sandbox_id"])
    os.kill(shim, signal.SIGKILL)
    box("start", "web")
    assert attached(box, "back")["web"]["addresses"] == list(chosen)
    box("network", "disconnect", "default", "web")
    assert f"default via {gateway}" in box("exec", "web", "ip", "route")
    box("network", "disconnect", "back", "web")
    assert b"container web is not in it" in box.full("network", "disconnect", "back", "web").stderr
    box("network", "disconnect", "--force", "back", "web")
    assert "page" not in box("exec", "db", "cat", "/etc/hosts")
    box.clear()
    assert box("network", "rm", "back", "front") == "back\nfront\n"


def shims(sandbox_id: str) -> list[int]:
    """The process of a sandbox's shim that stays."""
    found: list[int] = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
            if file.read().startswith(f"oakum shim {sandbox_id}"[:40].encode()):
                found.append(int(entry))
    return sorted(found)[:1]
