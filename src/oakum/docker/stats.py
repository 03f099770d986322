# SPDX-License-Identifier: Apache-2.0
"""Statistics of Docker's containers from cgroupfs, interfaces and their writable layers, in one pass.

Docker is asked what there is (one call for all containers, one for all pods), and never what they use: its own answer
takes two samples and a second each. Owns the rates, and what a container's writable layer is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from oakum.backend.config import ContainerConfig
from oakum.backend.status import (
    ContainerFilter,
    ContainerStats,
    ContainerStatus,
    FilesystemUsage,
    SandboxFilter,
    SandboxStats,
    SandboxStatus,
)
from oakum.docker.client import DockerClient
from oakum.docker.lookup import Lookup
from oakum.engine import usage
from oakum.errors import NotFound
from oakum.oci.cgroups.layout import Layout
from oakum.oci.cgroups.stats import read_stats
from oakum.snapshots.tree import measure_tree, open_directory

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters

# Counting what a container wrote walks its tree; the kubelet asks every 10 s.
_LAYER_AGE_NS: Final = 10_000_000_000
_RUNNING: Final = ("running", "paused")


class Traffic(Protocol):
    """What counts the bytes of sandboxes' interfaces."""

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """Those of one sandbox."""
        ...

    def usages(self) -> Mapping[str, InterfaceCounters]:
        """Those of all."""
        ...


class Statistics:
    """The statistics of one installation."""

    def __init__(self, client: DockerClient, lookup: Lookup, network: Traffic, cgroups: Layout) -> None:
        self._client = client
        self._lookup = lookup
        self._network = network
        self._cgroups = cgroups
        self._rates = usage.Rates()
        self._guard = threading.Lock()
        self._directories: dict[str, str] = {}
        self._layers: dict[str, FilesystemUsage] = {}
        self._docker_root = ""

    # containers

    def container(self, container_id: str) -> ContainerStats:
        """One container. Raises NotFound."""
        status = self._lookup.container(container_id)
        return self._of(status.id, status.config, status.cgroup_path if status.state in _RUNNING else "")

    def containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStats]:  # noqa: B008 - frozen
        """Those that match and run."""
        return [stats for _, stats in self._running(wanted)]

    def _running(self, wanted: ContainerFilter) -> list[tuple[str, ContainerStats]]:
        listed: Sequence[ContainerStatus] = self._lookup.containers(wanted)
        found = [
            (status.sandbox_id, self._of(status.id, status.config, status.cgroup_path))
            for status in listed
            if status.state in _RUNNING
        ]
        if wanted == ContainerFilter():
            alive = {status.id for status in listed}
            self._rates.keep({status.cgroup_path for status in listed})
            with self._guard:
                self._layers = {key: layer for key, layer in self._layers.items() if key in alive}
                self._directories = {key: path for key, path in self._directories.items() if key in alive}
        return found

    def _of(self, container_id: str, config: ContainerConfig, cgroup_path: str) -> ContainerStats:
        layer = self.layer(container_id)
        if not cgroup_path:
            return ContainerStats(id=container_id, config=config, writable_layer=layer)
        stats = read_stats(self._cgroups, cgroup_path)
        return ContainerStats(
            id=container_id,
            config=config,
            cpu=self._rates.cpu(cgroup_path, stats),
            memory=usage.memory(stats),
            swap=usage.swap(stats),
            io=usage.io(stats),
            writable_layer=layer,
            pids=stats.pids or 0,
        )

    def layer(self, container_id: str) -> FilesystemUsage | None:
        """What a container has written, counted at most every ten seconds; None where Docker's storage does not show it."""
        now = time.time_ns()
        known = self._layers.get(container_id)
        if known is not None and now - known.timestamp_ns < _LAYER_AGE_NS:
            return known
        try:
            directory = self._directory(container_id)
            if not directory:
                return None
            with open_directory(directory) as fd:
                written = measure_tree(fd)
        except (OSError, NotFound):
            return None  # it is being removed
        found = FilesystemUsage(
            timestamp_ns=now,
            mountpoint=self.docker_root(),
            used_bytes=written.used_bytes,
            inodes_used=written.inodes,
        )
        with self._guard:
            self._layers[container_id] = found
        return found

    def _directory(self, container_id: str) -> str:
        """Where a container's writable layer is; asked once."""
        known = self._directories.get(container_id)
        if known is None:
            facts: dict[str, Any] = self._client.get(f"/containers/{container_id}/json")
            driver: dict[str, Any] = facts.get("GraphDriver") or {"Data": None}
            data: dict[str, Any] = driver["Data"] or {}
            # overlay2; vfs and btrfs keep the whole file system there and say nothing of what was written
            known = str(data.get("UpperDir") or "")
            with self._guard:
                self._directories[container_id] = known
        return known

    def docker_root(self) -> str:
        """The directory that Docker keeps everything in. Raises as every call of Docker."""
        if not self._docker_root:
            self._docker_root = str(self._client.get("/info")["DockerRootDir"])
        return self._docker_root

    # sandboxes

    def sandbox(self, sandbox_id: str) -> SandboxStats:
        """One sandbox. Raises NotFound."""
        status = self._lookup.sandbox(sandbox_id)
        containers = tuple(self.containers(ContainerFilter(sandbox_id=status.id)))
        traffic = self._network.usage(status.id) if status.netns_path else None
        return self._of_sandbox(status, containers, traffic)

    def sandboxes(self, wanted: SandboxFilter = SandboxFilter()) -> Sequence[SandboxStats]:  # noqa: B008 - frozen
        """Those that match and are ready."""
        ready = [s for s in self._lookup.sandboxes(wanted) if s.state == "ready"]
        traffic: Mapping[str, InterfaceCounters] = (
            self._network.usages() if any(s.netns_path for s in ready) else {}
        )
        by_sandbox: dict[str, list[ContainerStats]] = {}
        only = ContainerFilter(sandbox_id=ready[0].id) if len(ready) == 1 else ContainerFilter()
        for sandbox_id, stats in self._running(only) if ready else ():
            by_sandbox.setdefault(sandbox_id, []).append(stats)
        return [self._of_sandbox(s, tuple(by_sandbox.get(s.id, ())), traffic.get(s.id)) for s in ready]

    def _of_sandbox(
        self, status: SandboxStatus, containers: tuple[ContainerStats, ...], traffic: InterfaceCounters | None
    ) -> SandboxStats:
        path = usage.pod_cgroup(status.cgroup_path)
        stats = read_stats(self._cgroups, path)
        return SandboxStats(
            id=status.id,
            config=status.config,
            timestamp_ns=stats.timestamp_ns,
            cpu=self._rates.cpu(path, stats),
            memory=usage.memory(stats),
            io=usage.io(stats),
            interfaces=(usage.interface(traffic),) if traffic is not None else (),
            default_interface=traffic.name if traffic is not None else "",
            pids=stats.pids or 0,
            containers=containers,
        )
