# SPDX-License-Identifier: Apache-2.0
"""The values of the metric families for one container or sandbox, from cgroupfs, /proc and the interfaces.

A family without a value on this host (huge pages without their controller) has none here: nothing is made up.
The same for every backend. Owns the load averages, which need the sample before.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from oakum.backend.config import ContainerConfig, Resources
from oakum.backend.status import Metric, MetricDescriptor, SandboxStatus
from oakum.engine.families import BASE_LABELS, FAMILIES
from oakum.engine.usage import pod_cgroup
from oakum.oci.cgroups.detail import CgroupDetail, Processes, read_detail, read_processes
from oakum.oci.cgroups.layout import Layout
from oakum.oci.cgroups.stats import CgroupStats, PressurePair, read_stats

if TYPE_CHECKING:
    from oakum.network.attachment import InterfaceCounters

_SECOND: Final = 1_000_000_000
_LOAD_WINDOW_S: Final = 10.0
_COUNTERS: Final = {family.name: family.counter for family in FAMILIES}
# What stands for the pod itself where a container's name is expected.
_POD: Final = "POD"

# (family, further labels, value); None is not known here
_Value = tuple[str, tuple[str, ...], int | None]


class Measured(Protocol):
    """What is to be known of a container that is measured."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def config(self) -> ContainerConfig:
        """As it was asked for."""
        ...

    @property
    def cgroup_path(self) -> str:
        """Its group, below the root of each hierarchy."""
        ...

    @property
    def pid(self) -> int:
        """Its first process."""
        ...

    @property
    def started_at_ns(self) -> int:
        """When that was started."""
        ...

    @property
    def resources(self) -> Resources:
        """The limits in force."""
        ...


def descriptors() -> Sequence[MetricDescriptor]:
    """All families."""
    return [
        MetricDescriptor(name=f.name, help=f.help, label_keys=(*BASE_LABELS, *f.labels)) for f in FAMILIES
    ]


class Meter:
    """The metrics of containers, one after the other. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._guard = threading.Lock()
        self._loads: dict[str, tuple[float, float]] = {}

    def keep(self, alive: set[str]) -> None:
        """Forget containers that are not among `alive` any more."""
        with self._guard:
            self._loads = {key: load for key, load in self._loads.items() if key in alive}

    def of(
        self, sandbox: SandboxStatus, record: Measured, disk: Disk, written_bytes: int | None
    ) -> Iterator[Metric]:
        """The metrics of a container that runs; `written_bytes` is the size of its writable layer, if known."""
        layout = self._layout
        stats = read_stats(layout, record.cgroup_path)
        detail = read_detail(layout, record.cgroup_path)
        processes = read_processes(layout, record.cgroup_path, main_pid=record.pid)
        base = _labels(
            sandbox,
            record.config.metadata.name,
            record.cgroup_path,
            # a kubelet asks for images by id; dashboards know them by the name that the user wrote
            record.config.user_specified_image or record.config.image,
            record.id,
        )
        values: tuple[Iterator[_Value], ...] = (
            _times(stats, record),
            _cpu(stats, detail),
            _memory(stats, detail),
            _disk(detail, disk, written_bytes),
            _processes(stats, processes),
            self._load(record.id, processes),
            _limits(record),
            _pressures(stats),
        )
        for part in values:
            yield from _made(part, base, stats.timestamp_ns)

    def _load(self, container_id: str, processes: Processes) -> Iterator[_Value]:
        """Runnable tasks, each sample weighing the less the longer ago it was."""
        now = time.monotonic()
        runnable = processes.states["running"] + processes.states["uninterruptible"]
        with self._guard:
            then, before = self._loads.get(container_id, (now, float(runnable)))
            old = math.exp(-(now - then) / _LOAD_WINDOW_S)
            load = before * old + runnable * (1 - old)
            self._loads[container_id] = (now, load)
        yield "container_cpu_load_average_10s", (), round(load * 1000)


class Disk:
    """The file system that containers write to, looked at once for all of them."""

    def __init__(self, root: str) -> None:
        number = os.stat(root).st_dev
        self.key = os.major(number), os.minor(number)
        self.name = device_name(*self.key)
        numbers = os.statvfs(root)
        self.size_bytes = numbers.f_blocks * numbers.f_frsize
        self.inodes = numbers.f_files
        self.inodes_free = numbers.f_ffree


def device_name(major: int, minor: int) -> str:
    """Where a block device is, such as "/dev/vda"; "" when this host does not know it. Source: sysfs(5)."""
    try:
        return f"/dev/{os.path.basename(os.readlink(f'/sys/dev/block/{major}:{minor}'))}"
    except OSError:
        return ""


def _labels(sandbox: SandboxStatus, container: str, path: str, image: str, name: str) -> tuple[str, ...]:
    """The values of BASE_LABELS."""
    metadata = sandbox.config.metadata
    return (container, path, image, name, metadata.namespace, metadata.name)


def _made(values: Iterator[_Value], base: tuple[str, ...], timestamp_ns: int) -> Iterator[Metric]:
    for name, labels, value in values:
        if value is not None:
            yield Metric(
                name=name,
                timestamp_ns=timestamp_ns,
                counter=_COUNTERS[name],
                labels=(*base, *labels),
                value=value,
            )


def of_sandbox(sandbox: SandboxStatus, traffic: InterfaceCounters | None) -> Iterator[Metric]:
    """The metrics of a sandbox itself."""
    if traffic is None:
        return
    base = _labels(sandbox, _POD, pod_cgroup(sandbox.cgroup_path), "", sandbox.id)
    yield from _made(_network(traffic), base, time.time_ns())


def _network(traffic: InterfaceCounters) -> Iterator[_Value]:
    where = (traffic.name,)
    yield "container_network_receive_bytes_total", where, traffic.rx_bytes
    yield "container_network_receive_packets_total", where, traffic.rx_packets
    yield "container_network_receive_packets_dropped_total", where, traffic.rx_dropped
    yield "container_network_receive_errors_total", where, traffic.rx_errors
    yield "container_network_transmit_bytes_total", where, traffic.tx_bytes
    yield "container_network_transmit_packets_total", where, traffic.tx_packets
    yield "container_network_transmit_packets_dropped_total", where, traffic.tx_dropped
    yield "container_network_transmit_errors_total", where, traffic.tx_errors


def _seconds(value_ns: int | None) -> int | None:
    return None if value_ns is None else value_ns // _SECOND


def _times(stats: CgroupStats, record: Measured) -> Iterator[_Value]:
    yield "container_last_seen", (), stats.timestamp_ns // _SECOND
    yield "container_start_time_seconds", (), record.started_at_ns // _SECOND


def _cpu(stats: CgroupStats, detail: CgroupDetail) -> Iterator[_Value]:
    yield "container_cpu_usage_seconds_total", ("total",), _seconds(stats.cpu_usage_ns)
    yield "container_cpu_user_seconds_total", (), _seconds(stats.cpu_user_ns)
    yield "container_cpu_system_seconds_total", (), _seconds(stats.cpu_system_ns)
    yield "container_cpu_cfs_periods_total", (), stats.cpu_periods
    yield "container_cpu_cfs_throttled_periods_total", (), stats.cpu_throttled_periods
    yield "container_cpu_cfs_throttled_seconds_total", (), _seconds(stats.cpu_throttled_ns)
    yield "container_cpu_cfs_burst_periods_total", (), detail.bursts
    yield "container_cpu_cfs_burst_seconds_total", (), _seconds(detail.burst_ns)


def _memory(stats: CgroupStats, detail: CgroupDetail) -> Iterator[_Value]:
    yield "container_memory_usage_bytes", (), stats.memory_usage_bytes
    yield "container_memory_working_set_bytes", (), stats.memory_working_set_bytes
    yield "container_memory_max_usage_bytes", (), stats.memory_peak_bytes
    yield "container_memory_rss", (), stats.memory_rss_bytes
    yield "container_memory_cache", (), stats.memory_cache_bytes
    yield "container_memory_mapped_file", (), detail.memory_mapped_bytes
    yield "container_memory_kernel_usage", (), detail.memory_kernel_bytes
    yield "container_memory_swap", (), stats.swap_usage_bytes
    yield "container_memory_failcnt", (), detail.memory_limit_hits
    yield "container_memory_total_active_file_bytes", (), detail.memory_active_file_bytes
    yield "container_memory_total_inactive_file_bytes", (), detail.memory_inactive_file_bytes
    faults = "container_memory_failures_total"
    yield faults, ("pgfault", "container"), detail.page_faults_own
    yield faults, ("pgmajfault", "container"), detail.major_page_faults_own
    yield faults, ("pgfault", "hierarchy"), stats.page_faults
    yield faults, ("pgmajfault", "hierarchy"), stats.major_page_faults
    yield "container_oom_events_total", (), detail.oom_kills
    for size, pages in detail.huge_pages.items():
        yield "container_hugetlb_usage_bytes", (size,), pages.usage_bytes
        yield "container_hugetlb_max_usage_bytes", (size,), pages.max_usage_bytes
        yield "container_hugetlb_failcnt", (size,), pages.failures


def _disk(detail: CgroupDetail, disk: Disk, written_bytes: int | None) -> Iterator[_Value]:
    own = (disk.name,)
    yield "container_fs_usage_bytes", own, written_bytes
    yield "container_fs_limit_bytes", own, disk.size_bytes
    yield "container_fs_inodes_free", own, disk.inodes_free
    yield "container_fs_inodes_total", own, disk.inodes
    none: Mapping[str, int] = {"Read": 0, "Write": 0}
    traffic = {key: (io.amount_bytes, io.operations) for key, io in detail.devices.items()}
    # A disk that nothing went to yet is not listed by the kernel; rates need a zero to begin from.
    for key, (amount, operations) in {disk.key: (none, none), **traffic}.items():
        name = device_name(*key)
        yield "container_fs_reads_bytes_total", (name,), amount["Read"]
        yield "container_fs_reads_total", (name,), operations["Read"]
        yield "container_fs_writes_bytes_total", (name,), amount["Write"]
        yield "container_fs_writes_total", (name,), operations["Write"]
        for operation, value in amount.items():
            where = (name, str(key[0]), str(key[1]), operation)
            yield "container_blkio_device_usage_total", where, value


def _processes(stats: CgroupStats, found: Processes) -> Iterator[_Value]:
    yield "container_processes", (), found.processes
    yield "container_threads", (), found.threads
    yield "container_threads_max", (), stats.pids_limit or 0
    yield "container_file_descriptors", (), found.file_descriptors
    yield "container_sockets", (), found.sockets
    limit = found.open_files_limit
    # CRI's numbers have no sign: no limit is the largest of them.
    yield "container_ulimits_soft", ("max_open_files",), 2**64 - 1 if limit == -1 else limit
    for state, count in found.states.items():
        yield "container_tasks_state", (state,), count


def _limits(record: Measured) -> Iterator[_Value]:
    said = record.resources
    yield "container_spec_cpu_period", (), said.cpu_period_us or 100_000
    yield "container_spec_cpu_quota", (), said.cpu_quota_us if said.cpu_quota_us > 0 else None
    yield "container_spec_cpu_shares", (), said.cpu_shares or 1024
    yield "container_spec_memory_limit_bytes", (), max(0, said.memory_limit_bytes)
    yield "container_spec_memory_reservation_limit_bytes", (), max(0, said.memory_reservation_bytes)
    swap = said.memory_swap_limit_bytes or said.memory_limit_bytes
    yield "container_spec_memory_swap_limit_bytes", (), max(0, swap)


def _pressures(stats: CgroupStats) -> Iterator[_Value]:
    pairs: tuple[tuple[str, PressurePair | None], ...] = (
        ("cpu", stats.cpu_pressure),
        ("memory", stats.memory_pressure),
        ("io", stats.io_pressure),
    )
    for resource, pair in pairs:
        if pair is not None:
            yield f"container_pressure_{resource}_waiting_seconds_total", (), pair.some.total_us // 1_000_000
            yield f"container_pressure_{resource}_stalled_seconds_total", (), pair.full.total_us // 1_000_000
