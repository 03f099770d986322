# SPDX-License-Identifier: Apache-2.0
"""The metrics of all pods in Docker, in one pass over cgroupfs, /proc and the interfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from oakum.backend.status import (
    ContainerFilter,
    ContainerStatus,
    MetricDescriptor,
    SandboxFilter,
    SandboxMetrics,
    SandboxStatus,
)
from oakum.docker.lookup import Lookup
from oakum.docker.stats import Statistics, Traffic
from oakum.engine import measures
from oakum.errors import NotFound
from oakum.oci.cgroups.layout import Layout

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters


class Metrics:
    """The metrics of one installation."""

    def __init__(self, statistics: Statistics, lookup: Lookup, network: Traffic, cgroups: Layout) -> None:
        self._statistics = statistics
        self._lookup = lookup
        self._network = network
        self._meter = measures.Meter(cgroups)
        self._begun: dict[str, ContainerStatus] = {}

    def descriptors(self) -> Sequence[MetricDescriptor]:
        """All families."""
        return measures.descriptors()

    def sandboxes(self) -> Sequence[SandboxMetrics]:
        """The values of all ready sandboxes, and of what runs in them."""
        ready = self._lookup.sandboxes(SandboxFilter(state="ready"))
        traffic: Mapping[str, InterfaceCounters] = (
            self._network.usages() if any(s.netns_path for s in ready) else {}
        )
        running: dict[str, list[ContainerStatus]] = {}
        for status in self._lookup.containers(ContainerFilter()):
            known = self._known(status) if status.state in ("running", "paused") else None
            if known is not None:
                running.setdefault(status.sandbox_id, []).append(known)
        alive = {status.id for statuses in running.values() for status in statuses}
        self._meter.keep(alive)
        self._begun = {key: status for key, status in self._begun.items() if key in alive}
        disk = measures.Disk(self._statistics.docker_root())
        return [self._of(s, running.get(s.id, []), disk, traffic=traffic.get(s.id)) for s in ready]

    def _of(
        self,
        sandbox: SandboxStatus,
        containers: list[ContainerStatus],
        disk: measures.Disk,
        *,
        traffic: InterfaceCounters | None,
    ) -> SandboxMetrics:
        return SandboxMetrics(
            id=sandbox.id,
            metrics=tuple(measures.of_sandbox(sandbox, traffic)),
            containers=tuple(
                (status.id, tuple(self._meter.of(sandbox, status, disk, self._written_bytes(status.id))))
                for status in containers
            ),
        )

    def _known(self, listed: ContainerStatus) -> ContainerStatus | None:
        """The container with its process and its beginning, which Docker's list lacks: asked for once."""
        known = self._begun.get(listed.id)
        if known is None:
            try:
                known = self._begun[listed.id] = self._lookup.container(listed.id)
            except NotFound:
                return None  # removed meanwhile
        return msgspec.structs.replace(listed, pid=known.pid, started_at_ns=known.started_at_ns)

    def _written_bytes(self, container_id: str) -> int | None:
        written = self._statistics.layer(container_id)
        return written.used_bytes if written is not None else None
