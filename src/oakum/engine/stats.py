# SPDX-License-Identifier: Apache-2.0
"""Statistics: one pass over cgroups, interface counters and writable layers, no shim asked.

Owns which groups, interfaces and layers are looked at; `usage` makes of them what callers are told. The sources are
`oakum.oci.cgroups.stats`, `oakum.network` and `oakum.snapshots`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from oakum.backend.config import ContainerConfig
from oakum.backend.status import (
    ContainerFilter,
    ContainerStats,
    FilesystemUsage,
    SandboxFilter,
    SandboxStats,
    SandboxStatus,
)
from oakum.engine import usage
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.sandboxes import Sandboxes
from oakum.errors import NotFound

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters
    from oakum.oci.cgroups.stats import CgroupStats

# Counting what a container wrote walks its tree; the kubelet asks every 10 s.
_LAYER_AGE_NS: Final = 10_000_000_000


class Statistics:
    """The statistics of one namespace."""

    def __init__(self, context: Context, sandboxes: Sandboxes, containers: Containers) -> None:
        self._context = context
        self._sandboxes = sandboxes
        self._containers = containers
        self._rates = usage.Rates()
        self._layers: dict[str, FilesystemUsage] = {}

    # containers

    def container(self, container_id: str) -> ContainerStats:
        """One container. Raises NotFound."""
        status = self._containers.status(container_id)
        running = status.state in ("running", "paused")
        return self._of(status.id, status.config, status.cgroup_path if running else "")

    def containers(self, wanted: ContainerFilter) -> Sequence[ContainerStats]:
        """Those that match and run."""
        return [stats for _, stats in self._running(wanted)]

    def _running(self, wanted: ContainerFilter) -> list[tuple[str, ContainerStats]]:
        found: list[tuple[str, ContainerStats]] = []
        paths: set[str] = set()
        for record, status in self._containers.listed(wanted):
            if status.state in ("running", "paused"):
                paths.add(record.cgroup_path)
                found.append((record.sandbox_id, self._of(record.id, record.config, record.cgroup_path)))
        if wanted == ContainerFilter():
            self._rates.keep(paths)
            alive = {stats.id for _, stats in found}
            self._layers = {key: layer for key, layer in self._layers.items() if key in alive}
        return found

    def _of(self, container_id: str, config: ContainerConfig, cgroup_path: str) -> ContainerStats:
        layer = self.layer(container_id)
        if not cgroup_path:
            return ContainerStats(id=container_id, config=config, writable_layer=layer)
        stats = self._read(cgroup_path)
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
        """What a container has written, counted at most every ten seconds; None while it is removed."""
        now = time.time_ns()
        known = self._layers.get(container_id)
        if known is not None and now - known.timestamp_ns < _LAYER_AGE_NS:
            return known
        try:
            written = self._context.snapshotter.usage(container_id)
        except NotFound:
            return None  # it is being removed
        found = FilesystemUsage(
            timestamp_ns=now,
            mountpoint=self._context.layout.root,
            used_bytes=written.used_bytes,
            inodes_used=written.inodes,
        )
        self._layers[container_id] = found
        return found

    def _read(self, cgroup_path: str) -> CgroupStats:
        from oakum.oci.cgroups.stats import read_stats  # only statistics need the parsers

        return read_stats(self._context.cgroups, cgroup_path)

    # sandboxes

    def sandbox(self, sandbox_id: str) -> SandboxStats:
        """One sandbox. Raises NotFound."""
        status = self._sandboxes.status(sandbox_id)
        containers = tuple(self.containers(ContainerFilter(sandbox_id=status.id)))
        traffic = self._context.network.usage(status.id) if status.netns_path else None
        return self._of_sandbox(status, containers, traffic)

    def sandboxes(self, wanted: SandboxFilter) -> Sequence[SandboxStats]:
        """Those that match and are ready."""
        ready = [s for s in self._sandboxes.list(wanted) if s.state == "ready"]
        traffic = self._context.network.usages() if any(s.netns_path for s in ready) else {}
        by_sandbox: dict[str, list[ContainerStats]] = {}
        only = ContainerFilter(sandbox_id=ready[0].id) if len(ready) == 1 else ContainerFilter()
        for sandbox_id, stats in self._running(only) if ready else ():
            by_sandbox.setdefault(sandbox_id, []).append(stats)
        return [self._of_sandbox(s, tuple(by_sandbox.get(s.id, ())), traffic.get(s.id)) for s in ready]

    def _of_sandbox(
        self, status: SandboxStatus, containers: tuple[ContainerStats, ...], traffic: InterfaceCounters | None
    ) -> SandboxStats:
        path = usage.pod_cgroup(status.cgroup_path)
        stats = self._read(path)
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
