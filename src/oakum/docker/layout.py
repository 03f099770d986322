# SPDX-License-Identifier: Apache-2.0
"""Where the dockershim keeps what Docker has no place for. Owns paths, not files.

ROOT/docker/network.db, cni/     who is attached to which network
ROOT/docker/pods/<id>/           pod.json (see `pods`), hosts, resolv.conf, hostname
ROOT/docker/containers/<id>/     changed.json (limits that were changed), log (how far the log has been written)
STATE/docker/pods/<id>.net       the sandbox's network namespace, pinned
STATE/docker/mounts/<key>/<n>    what is mounted for a container that has not started yet
STATE/docker/locks/, making.lock
"""

from __future__ import annotations


class Layout:
    """The paths below one ROOT and STATE."""

    def __init__(self, root: str, state: str) -> None:
        self.root = f"{root}/docker"
        self.state = f"{state}/docker"
        self.network_database = f"{self.root}/network.db"
        self.cni = f"{self.root}/cni"
        self.pods = f"{self.root}/pods"
        self.containers = f"{self.root}/containers"
        self.pins = f"{self.state}/pods"
        self.mounts = f"{self.state}/mounts"
        self.locks = f"{self.state}/locks"
        self.making = f"{self.state}/making.lock"

    def pod(self, sandbox_id: str) -> str:
        """A sandbox's directory."""
        return f"{self.pods}/{sandbox_id}"

    def container(self, container_id: str) -> str:
        """A container's directory."""
        return f"{self.containers}/{container_id}"

    def netns(self, sandbox_id: str) -> str:
        """Where a sandbox's network namespace is pinned."""
        return f"{self.pins}/{sandbox_id}.net"

    def mounts_of(self, key: str) -> str:
        """The directory of a container's own mounts; `key` is from its labels."""
        return f"{self.mounts}/{key}"
