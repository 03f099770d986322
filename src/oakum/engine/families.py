# SPDX-License-Identifier: Apache-2.0
"""The metric families that a kubelet's cAdvisor exports for containers: names, meaning, kind, labels. No values.

What the kernel does not account by control group (the time of disk operations, merged requests, the queue of a disk)
cAdvisor exports as 0 for every container; here these families are left out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BASE_LABELS: Final = ("container", "id", "image", "name", "namespace", "pod")


class Family(NamedTuple):
    """One family; `labels` come behind the labels that all have."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def counter(self) -> bool:
        """Whether its values only grow; a name says it by its end, as Prometheus wants it."""
        return self.name.endswith(("_total", "_failcnt"))


def _network(direction: str, verb: str) -> tuple[Family, ...]:
    return tuple(
        Family(
            f"container_network_{direction}_{name}_total",
            f"{what} that the pod {verb}, by interface.",
            labels=("interface",),
        )
        for name, what in (
            ("bytes", "Bytes"),
            ("packets", "Packets"),
            ("packets_dropped", "Packets dropped of those"),
            ("errors", "Errors in what"),
        )
    )


def _pressure(resource: str) -> tuple[Family, ...]:
    return (
        Family(
            f"container_pressure_{resource}_waiting_seconds_total",
            f"Seconds in which some task waited for {resource}.",
        ),
        Family(
            f"container_pressure_{resource}_stalled_seconds_total",
            f"Seconds in which all tasks waited for {resource}.",
        ),
    )


FAMILIES: Final[tuple[Family, ...]] = (
    Family("container_last_seen", "When the container was last looked at, in seconds since the epoch."),
    Family("container_start_time_seconds", "When the container was started, in seconds since the epoch."),
    Family("container_cpu_usage_seconds_total", "Seconds of processor time.", labels=("cpu",)),
    Family("container_cpu_user_seconds_total", "Seconds of processor time in user mode."),
    Family("container_cpu_system_seconds_total", "Seconds of processor time in the kernel."),
    Family("container_cpu_cfs_periods_total", "Periods in which a processor limit was enforced."),
    Family("container_cpu_cfs_throttled_periods_total", "Periods in which the limit was reached."),
    Family("container_cpu_cfs_throttled_seconds_total", "Seconds for which the limit held tasks."),
    Family("container_cpu_cfs_burst_periods_total", "Periods in which saved up time was used."),
    Family("container_cpu_cfs_burst_seconds_total", "Seconds of saved up time that were used."),
    Family(
        "container_cpu_load_average_10s", "Runnable tasks, averaged over ten seconds, in thousandths of one."
    ),
    Family("container_tasks_state", "Processes by state.", labels=("state",)),
    Family("container_memory_usage_bytes", "Memory in use, caches included."),
    Family("container_memory_working_set_bytes", "Memory in use but for inactive file pages."),
    Family("container_memory_max_usage_bytes", "The most memory ever in use."),
    Family("container_memory_rss", "Anonymous memory in bytes."),
    Family("container_memory_cache", "Page cache in bytes."),
    Family("container_memory_mapped_file", "Mapped files in bytes."),
    Family("container_memory_kernel_usage", "Memory of the kernel's in bytes."),
    Family("container_memory_swap", "Swap in use in bytes."),
    Family("container_memory_failcnt", "How often the memory limit was hit."),
    Family("container_memory_total_active_file_bytes", "File pages lately used, in bytes."),
    Family("container_memory_total_inactive_file_bytes", "File pages not lately used, in bytes."),
    Family(
        "container_memory_failures_total",
        "Page faults, by type and by whether child groups count.",
        labels=("failure_type", "scope"),
    ),
    Family("container_oom_events_total", "Processes killed for want of memory."),
    Family("container_hugetlb_usage_bytes", "Huge pages in use.", labels=("pagesize",)),
    Family("container_hugetlb_max_usage_bytes", "The most huge pages ever in use.", labels=("pagesize",)),
    Family("container_hugetlb_failcnt", "How often a limit of huge pages was hit.", labels=("pagesize",)),
    Family(
        "container_fs_usage_bytes", "Bytes that the container has written to its root.", labels=("device",)
    ),
    Family("container_fs_limit_bytes", "Size of the file system below it.", labels=("device",)),
    Family("container_fs_inodes_free", "Free inodes of the file system below it.", labels=("device",)),
    Family("container_fs_inodes_total", "Inodes of the file system below it.", labels=("device",)),
    Family("container_fs_reads_bytes_total", "Bytes read from a disk.", labels=("device",)),
    Family("container_fs_reads_total", "Reads from a disk.", labels=("device",)),
    Family("container_fs_writes_bytes_total", "Bytes written to a disk.", labels=("device",)),
    Family("container_fs_writes_total", "Writes to a disk.", labels=("device",)),
    Family(
        "container_blkio_device_usage_total",
        "Bytes from and to a disk, by operation.",
        labels=("device", "major", "minor", "operation"),
    ),
    Family("container_processes", "Processes."),
    Family("container_threads", "Threads."),
    Family("container_threads_max", "The most threads there may be; 0 is no limit."),
    Family("container_file_descriptors", "Open file descriptors."),
    Family("container_sockets", "Open sockets."),
    Family("container_ulimits_soft", "Soft limits of the first process; -1 is no limit.", labels=("ulimit",)),
    Family("container_spec_cpu_period", "The period of the processor limit in microseconds."),
    Family("container_spec_cpu_quota", "The processor limit in microseconds a period."),
    Family("container_spec_cpu_shares", "The processor share."),
    Family("container_spec_memory_limit_bytes", "The memory limit; 0 is none."),
    Family("container_spec_memory_reservation_limit_bytes", "The memory reservation; 0 is none."),
    Family("container_spec_memory_swap_limit_bytes", "The limit of memory and swap together; 0 is none."),
    *_pressure("cpu"),
    *_pressure("memory"),
    *_pressure("io"),
    *_network("receive", "received"),
    *_network("transmit", "sent"),
)
