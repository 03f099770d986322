# SPDX-License-Identifier: Apache-2.0
"""LinuxContainerResources: limits of containers, pods and pod overhead."""

from __future__ import annotations

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.api.cri.convert.checks import cpu_list, page_size, present, refusal, within
from oakum.backend.config import HugepageLimit, Resources

# What the kernel takes. Source: Documentation/scheduler/sched-bwc, kernel/sched/core.c (MAX_BW).
_PERIODS_US = (1000, 1_000_000)
_QUOTAS_US = (1000, 2**44 - 1)
_PAGE_BYTES = 4096
# What CRI has no field for, and what comes back from it, stays apart: `pids_limit`, `memory_reservation_bytes`.


def read_resources(message: pb.LinuxContainerResources, field: str, *, zero_score_is_said: bool) -> Resources:
    """The limits of `message`.

    CRI's oom_score_adj cannot be absent: when a container is made, 0 is meant (`zero_score_is_said`); in an
    update, and for a pod, it says nothing. -1 stands for "no limit" in quota, memory and swap.

    Raises:
        InvalidArgument: a value is out of range.
    Spec: CRI v1 LinuxContainerResources.
    """
    score = within(f"{field}.oom_score_adj", message.oom_score_adj, -1000, 1000)
    pages = tuple(
        HugepageLimit(
            page_size=page_size(f"{field}.hugepage_limits[{i}].page_size", h.page_size), limit_bytes=h.limit
        )
        for i, h in enumerate(message.hugepage_limits)
    )
    for key in message.unified:
        present(f"{field}.unified", key)
    memory, swap = message.memory_limit_in_bytes, message.memory_swap_limit_in_bytes
    if 0 < swap < memory:
        raise refusal(f"{field}.memory_swap_limit_in_bytes", f"{swap} is below the memory limit ({memory})")
    return Resources(
        cpu_period_us=_unless_nothing(f"{field}.cpu_period", message.cpu_period, *_PERIODS_US),
        cpu_quota_us=_unless_nothing(f"{field}.cpu_quota", message.cpu_quota, *_QUOTAS_US, unlimited=-1),
        cpu_shares=within(f"{field}.cpu_shares", message.cpu_shares, 0),
        memory_limit_bytes=_unless_nothing(
            f"{field}.memory_limit_in_bytes", memory, _PAGE_BYTES, unlimited=-1
        ),
        memory_swap_limit_bytes=within(f"{field}.memory_swap_limit_in_bytes", swap, -1),
        oom_score_adj=score if score or zero_score_is_said else None,
        cpuset_cpus=cpu_list(f"{field}.cpuset_cpus", message.cpuset_cpus),
        cpuset_mems=cpu_list(f"{field}.cpuset_mems", message.cpuset_mems),
        hugepage_limits=pages,
        unified=dict(message.unified),
    )


def _unless_nothing(
    field: str, value: int, lowest: int, highest: int | None = None, *, unlimited: int = 0
) -> int:
    return value if value in (0, unlimited) else within(field, value, lowest, highest)


def write_resources(resources: Resources) -> pb.LinuxContainerResources:
    """`resources` as CRI says them."""
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period_us,
        cpu_quota=resources.cpu_quota_us,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit_bytes,
        memory_swap_limit_in_bytes=resources.memory_swap_limit_bytes,
        oom_score_adj=resources.oom_score_adj or 0,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[
            pb.HugepageLimit(page_size=h.page_size, limit=h.limit_bytes) for h in resources.hugepage_limits
        ],
        unified=resources.unified,
    )
