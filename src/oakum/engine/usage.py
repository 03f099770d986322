# SPDX-License-Identifier: Apache-2.0
"""What control groups and interfaces say, in the words that callers are told; the same for every backend.

Pure but for `Rates`, which keeps the samples before. Owns no knowledge of where a container's cgroup is.
"""

from __future__ import annotations

import posixpath
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from oakum.backend.status import (
    CpuUsage,
    InterfaceUsage,
    IoUsage,
    MemoryUsage,
    Pressure,
    Psi,
    SwapUsage,
)

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters
    from oakum.oci.cgroups.stats import CgroupStats, PressurePair

# Two readers must not spoil each other's rates: a sample younger than this is not replaced.
_MIN_INTERVAL_NS: Final = 100_000_000


class _Sample(NamedTuple):
    timestamp_ns: int
    usage_ns: int
    rate: int | None


class Rates:
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

    def cpu(self, path: str, stats: CgroupStats) -> CpuUsage | None:
        """Processor time of the group at `path`; None where it is not accounted."""
        if stats.cpu_usage_ns is None:
            return None
        return CpuUsage(
            timestamp_ns=stats.timestamp_ns,
            usage_core_ns=stats.cpu_usage_ns,
            usage_nano_cores=self.rate(path, stats.timestamp_ns, stats.cpu_usage_ns),
            psi=_pressure(stats.cpu_pressure),
        )


def pod_cgroup(path: str) -> str:
    """The directory form of a pod's cgroup: a systemd slice name is spelled out."""
    if "/" in path:
        return path
    from oakum.oci.cgroups.layout import systemd_path  # as above

    return posixpath.dirname(systemd_path(path, "", "any"))


def memory(stats: CgroupStats) -> MemoryUsage | None:
    """Memory of a group; None where it is not accounted."""
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


def swap(stats: CgroupStats) -> SwapUsage | None:
    """Swap of a group; None where it is not accounted."""
    if stats.swap_usage_bytes is None:
        return None
    limit = stats.swap_limit_bytes
    return SwapUsage(
        timestamp_ns=stats.timestamp_ns,
        usage_bytes=stats.swap_usage_bytes,
        available_bytes=max(0, limit - stats.swap_usage_bytes) if limit is not None else None,
    )


def io(stats: CgroupStats) -> IoUsage | None:
    """Block device traffic of a group; None where nothing of it is accounted."""
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


def interface(traffic: InterfaceCounters) -> InterfaceUsage:
    """Traffic of an interface."""
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
