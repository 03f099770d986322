# SPDX-License-Identifier: Apache-2.0
"""Statistics: one pass over cgroups, interface counters and writable layers, no shim asked.

Owns the conversion into what callers are told, and the previous samples from which rates are made. The sources
are `oakum.oci.cgroups.stats`, `oakum.network` and `oakum.snapshots`.
"""

from __future__ import annotations

import posixpath
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from oakum.backend.config import ContainerConfig
from oakum.backend.status import (
    ContainerFilter,
    ContainerStats,
    CpuUsage,
    FilesystemUsage,
    InterfaceUsage,
    IoUsage,
    MemoryUsage,
    Pressure,
    Psi,
    SandboxFilter,
    SandboxStats,
    SandboxStatus,
    SwapUsage,
)
from oakum.engine.containers import Containers
from oakum.engine.context import Context
from oakum.engine.sandboxes import Sandboxes
from oakum.errors import NotFound

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters
    from oakum.oci.cgroups.stats import CgroupStats, PressurePair

# Two readers must not spoil each other's rates: a sample younger than this is not replaced.
_MIN_INTERVAL_NS: Final = 100_000_000
# Counting what a container wrote walks its tree; the kubelet asks every 10 s.
_LAYER_AGE_NS: Final = 10_000_000_000


class _Sample(NamedTuple):
    timestamp_ns: int
    usage_ns: int
    rate: int | None


class _Rates:
    """Processor use over time, by cgroup."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._samples: dict[str, _Sample] = {}

    def rate(self, path: str, timestamp_ns: int, usage_ns: int) -> int | None:
        """Nanoseconds of processor a second since the sample before; None for the first."""
        with self._guard:
            before = self._samples.get(path)
            if before is None:
                self._samples[path] = _Sample(timestamp_ns, usage_ns, None)
                return None
            elapsed = timestamp_ns - before.timestamp_ns
            if elapsed < _MIN_INTERVAL_NS and before.rate is not None:
                return before.rate
            if elapsed <= 0 or usage_ns < before.usage_ns:
                self._samples[path] = _Sample(timestamp_ns, usage_ns, None)
                return None
            rate = (usage_ns - before.usage_ns) * 1_000_000_000 // elapsed
            if elapsed >= _MIN_INTERVAL_NS:
                self._samples[path] = _Sample(timestamp_ns, usage_ns, rate)
            return rate

    def keep(self, paths: set[str]) -> None:
        """Forget what is not among `paths` any more."""
        with self._guard:
            if len(self._samples) > 2 * len(paths) + 64:
                self._samples = {path: sample for path, sample in self._samples.items() if path in paths}


class Statistics:
    """The statistics of one namespace."""

    def __init__(self, context: Context, sandboxes: Sandboxes, containers: Containers) -> None:
        self._context = context
        self._sandboxes = sandboxes
        self._containers = containers
        self._rates = _Rates()
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
            self._layers = {key: usage for key, usage in self._layers.items() if key in alive}
        return found

    def _of(self, container_id: str, config: ContainerConfig, cgroup_path: str) -> ContainerStats:
        layer = self.layer(container_id)
        if not cgroup_path:
            return ContainerStats(id=container_id, config=config, writable_layer=layer)
        stats = self._read(cgroup_path)
        return ContainerStats(
            id=container_id,
            config=config,
            cpu=self._cpu(cgroup_path, stats),
            memory=_memory(stats),
            swap=_swap(stats),
            io=_io(stats),
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
            usage = self._context.snapshotter.usage(container_id)
        except NotFound:
            return None  # it is being removed
        found = FilesystemUsage(
            timestamp_ns=now,
            mountpoint=self._context.layout.root,
            used_bytes=usage.used_bytes,
            inodes_used=usage.inodes,
        )
        self._layers[container_id] = found
        return found

    def _read(self, cgroup_path: str) -> CgroupStats:
        from oakum.oci.cgroups.stats import read_stats  # only statistics need the parsers

        return read_stats(self._context.cgroups, cgroup_path)

    def _cpu(self, cgroup_path: str, stats: CgroupStats) -> CpuUsage | None:
        if stats.cpu_usage_ns is None:
            return None
        return CpuUsage(
            timestamp_ns=stats.timestamp_ns,
            usage_core_ns=stats.cpu_usage_ns,
            usage_nano_cores=self._rates.rate(cgroup_path, stats.timestamp_ns, stats.cpu_usage_ns),
            psi=_pressure(stats.cpu_pressure),
        )

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
        path = pod_cgroup(status.cgroup_path)
        stats = self._read(path)
        return SandboxStats(
            id=status.id,
            config=status.config,
            timestamp_ns=stats.timestamp_ns,
            cpu=self._cpu(path, stats),
            memory=_memory(stats),
            io=_io(stats),
            interfaces=(_interface(traffic),) if traffic is not None else (),
            default_interface=traffic.name if traffic is not None else "",
            pids=stats.pids or 0,
            containers=containers,
        )


def pod_cgroup(path: str) -> str:
    """The directory form of a pod's cgroup: a systemd slice name is spelled out."""
    if "/" in path:
        return path
    from oakum.oci.cgroups.layout import systemd_path  # as above

    return posixpath.dirname(systemd_path(path, "", "any"))


def _memory(stats: CgroupStats) -> MemoryUsage | None:
    if stats.memory_usage_bytes is None:
        return None
    working_set = stats.memory_working_set_bytes or 0
    limit = stats.memory_limit_bytes
    return MemoryUsage(
        timestamp_ns=stats.timestamp_ns,
        usage_bytes=stats.memory_usage_bytes,
        working_set_bytes=working_set,
        rss_bytes=stats.memory_rss_bytes or 0,
        page_faults=stats.page_faults or 0,
        major_page_faults=stats.major_page_faults or 0,
        limit_bytes=limit,
        available_bytes=max(0, limit - working_set) if limit is not None else None,
        psi=_pressure(stats.memory_pressure),
    )


def _swap(stats: CgroupStats) -> SwapUsage | None:
    if stats.swap_usage_bytes is None:
        return None
    limit = stats.swap_limit_bytes
    return SwapUsage(
        timestamp_ns=stats.timestamp_ns,
        usage_bytes=stats.swap_usage_bytes,
        available_bytes=max(0, limit - stats.swap_usage_bytes) if limit is not None else None,
    )


def _io(stats: CgroupStats) -> IoUsage | None:
    if stats.io_read_bytes is None and stats.io_pressure is None:
        return None
    return IoUsage(
        timestamp_ns=stats.timestamp_ns,
        read_bytes=stats.io_read_bytes or 0,
        write_bytes=stats.io_write_bytes or 0,
        psi=_pressure(stats.io_pressure),
    )


def _pressure(pair: PressurePair | None) -> Pressure | None:
    if pair is None:
        return None
    some, full = (
        Psi(total_us=line.total_us, avg10=line.avg10, avg60=line.avg60, avg300=line.avg300)
        for line in (pair.some, pair.full)
    )
    return Pressure(some=some, full=full)


def _interface(traffic: InterfaceCounters) -> InterfaceUsage:
    return InterfaceUsage(
        name=traffic.name,
        rx_bytes=traffic.rx_bytes,
        rx_errors=traffic.rx_errors,
        tx_bytes=traffic.tx_bytes,
        tx_errors=traffic.tx_errors,
        rx_packets=traffic.rx_packets,
        tx_packets=traffic.tx_packets,
        rx_dropped=traffic.rx_dropped,
        tx_dropped=traffic.tx_dropped,
    )
