# SPDX-License-Identifier: Apache-2.0
"""The metrics of all pods, in one pass over cgroupfs, /proc and the interfaces. Asks no shim."""

from __future__ import annotations

from collections.abc import Sequence

from oakum.backend.status import ContainerFilter, MetricDescriptor, SandboxFilter, SandboxMetrics
from oakum.engine import measures
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.sandboxes import Sandboxes
from oakum.engine.stats import Statistics
from oakum.engine.store.records import ContainerRecord


class Metrics:
    """The metrics of one namespace."""

    def __init__(
        self, context: Context, sandboxes: Sandboxes, containers: Containers, statistics: Statistics
    ) -> None:
        self._context = context
        self._sandboxes = sandboxes
        self._containers = containers
        self._statistics = statistics
        self._meter = measures.Meter(context.cgroups)

    def descriptors(self) -> Sequence[MetricDescriptor]:
        """All families."""
        return measures.descriptors()

    def sandboxes(self) -> Sequence[SandboxMetrics]:
        """The values of all ready sandboxes, and of what runs in them."""
        ready = self._sandboxes.list(SandboxFilter(state="ready"))
        traffic = self._context.network.usages() if any(s.netns_path for s in ready) else {}
        running: dict[str, list[ContainerRecord]] = {}
        for record, status in self._containers.listed(ContainerFilter()):
            if status.state in ("running", "paused"):
                running.setdefault(record.sandbox_id, []).append(record)
        self._meter.keep({record.id for records in running.values() for record in records})
        disk = measures.Disk(self._context.layout.root)
        return [
            SandboxMetrics(
                id=s.id,
                metrics=tuple(measures.of_sandbox(s, traffic.get(s.id))),
                containers=tuple(
                    (record.id, tuple(self._meter.of(s, record, disk, self._written_bytes(record.id))))
                    for record in running.get(s.id, ())
                ),
            )
            for s in ready
        ]

    def _written_bytes(self, container_id: str) -> int | None:
        written = self._statistics.layer(container_id)
        return written.used_bytes if written is not None else None
