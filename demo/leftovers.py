# SPDX-License-Identifier: Apache-2.0
"""What containers could leave on a machine, looked for where the kernel lists it; and the end of what outlives a pod."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from oakum.engine.context import network_suffix
from oakum.errors import OakumError
from oakum.linux import sockets
from oakum.network.builtin import BuiltinNetwork
from oakum.shim import wire


def links(root: Path) -> set[str]:
    """The bridge of a root directory, and what is plugged into it."""
    found: set[str] = set()
    for link in Path("/sys/class/net").iterdir():
        alias = link / "ifalias"
        if alias.exists() and str(root) in alias.read_text():
            found |= {link.name, *os.listdir(link / "brif")}
    return found


def still_there(names: set[str]) -> set[str]:
    """Those of the network interfaces that exist."""
    return names & set(os.listdir("/sys/class/net"))


def mounts(below: Path) -> set[str]:
    """Mounts that have to do with `below`."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ")[4] for line in lines if str(below) in line}


def cgroups() -> set[str]:
    """Control groups of ours."""
    found: set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup"):
            top = fields.split(" ")[4]
            for directory, _, _ in os.walk(f"{top}/oakum"):
                found.add(directory)
    return found


def processes(below: Path) -> dict[int, str]:
    """Processes that name `below` in their command line or their title, or live in it."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(entry / "cwd")
        except OSError:
            continue
        if str(below) in line or where.startswith(str(below)):
            found[int(entry.name)] = line.strip()
    return found


def end_zygote(state: Path) -> int:
    """End the zygote of a state directory; it would end by itself after a minute without work. Its id, or 0."""
    try:
        with sockets.connect(str(state), "zygote.sock", timeout_s=5) as peer:
            pid = int(wire.call(peer, {"op": "ping"}, timeout_s=5, peer="zygote").value["pid"])
    except (OSError, OakumError):
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    if os.path.exists(f"/proc/{pid}"):
        os.kill(pid, signal.SIGKILL)
    return pid


def remove_bridge(root: Path) -> None:
    """Remove the bridge and the firewall table of a root directory."""
    if not (root / "network.db").exists():
        return
    network = BuiltinNetwork(str(root / "network.db"), name_suffix=network_suffix(str(root)))
    try:
        network.remove_network()
    finally:
        network.close()
