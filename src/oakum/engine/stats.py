# SPDX-License-Identifier: Apache-2.0
"""Statistics: one pass over cgroups, interface counters and writable layers; neither shims nor Docker are asked.

Owns which groups, interfaces and layers are looked at, the same for every backend; `usage` makes of them what callers
are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from oakum.backend.config import ContainerConfig
from oakum.backend.status import ContainerFilter, ContainerStats, SandboxFilter, SandboxStats, SandboxStatus
from oakum.engine import usage
from oakum.engine.lookup import Lookup
from oakum.engine.written import WrittenLayers
from oakum.oci.cgroups.layout import Layout
from oakum.oci.cgroups.stats import read_stats

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters

RUNNING: Final = ("running", "paused")


class Traffic(Protocol):
    """What counts the bytes of sandboxes' interfaces."""

    def usage(self, sandbox_id: str) -> InterfaceCounters | None:
        """Those of one sandbox."""
        ...

    def usages(self) -> Mapping[str, InterfaceCounters]:
        """Those of all."""
        ...


class Statistics:
    """The statistics of what one `Lookup` finds."""

    def __init__(self, lookup: Lookup, network: Traffic, cgroups: Layout, written: WrittenLayers) -> None:
        self._lookup = lookup
        self._network = network
        self._cgroups = cgroups
        self._rates = usage.Rates()
        self._written = written

    # containers

    def container(self, container_id: str) -> ContainerStats:
        """One container. Raises NotFound."""
        status = self._lookup.container(container_id)
        return self._of(status.id, status.config, status.cgroup_path if status.state in RUNNING else "")

    def containers(self, wanted: ContainerFilter = ContainerFilter()) -> Sequence[ContainerStats]:  # noqa: B008 - frozen
        """Those that match and run."""
        return [stats for _, stats in self._running(wanted)]

    def _running(self, wanted: ContainerFilter) -> list[tuple[str, ContainerStats]]:
        listed = self._lookup.containers(wanted)
        found = [
            (status.sandbox_id, self._of(status.id, status.config, status.cgroup_path))
            for status in listed
            if status.state in RUNNING
        ]
        if wanted == ContainerFilter():
            self._rates.keep({status.cgroup_path for status in listed})
            self._written.keep({status.id for status in listed})
        return found

    def _of(self, container_id: str, config: ContainerConfig, cgroup_path: str) -> ContainerStats:
        layer = self._written.of(container_id)
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
