# SPDX-License-Identifier: Apache-2.0
"""The metrics of all pods, in one pass over cgroupfs, /proc and the interfaces; neither shims nor Docker are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from oakum.backend.status import (
    ContainerFilter,
    ContainerStatus,
    MetricDescriptor,
    SandboxFilter,
    SandboxMetrics,
)
from oakum.engine import measures
from oakum.engine.lookup import Lookup
from oakum.engine.stats import RUNNING, Traffic
from oakum.engine.written import WrittenLayers
from oakum.oci.cgroups.layout import Layout

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters


class Metrics:
    """The metrics of what one `Lookup` finds, whose containers come with pid and beginning."""

    def __init__(
        self,
        lookup: Lookup,
        network: Traffic,
        cgroups: Layout,
        *,
        written: WrittenLayers,
        root: Callable[[], str],
    ) -> None:
        """`root` tells a directory on the file system that containers write to."""
        self._lookup = lookup
        self._network = network
        self._written = written
        self._root = root
        self._meter = measures.Meter(cgroups)

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
            if status.state in RUNNING:
                running.setdefault(status.sandbox_id, []).append(status)
        self._meter.keep({status.id for statuses in running.values() for status in statuses})
        disk = measures.Disk(self._root())
        return [
            SandboxMetrics(
                id=s.id,
                metrics=tuple(measures.of_sandbox(s, traffic.get(s.id))),
                containers=tuple(
                    (status.id, tuple(self._meter.of(s, status, disk, self._written_bytes(status.id))))
                    for status in running.get(s.id, ())
                ),
            )
            for s in ready
        ]

    def _written_bytes(self, container_id: str) -> int | None:
        written = self._written.of(container_id)
        return written.used_bytes if written is not None else None
