# SPDX-License-Identifier: Apache-2.0
"""Limits as the runtime spec's linux.resources, and how an update changes them. Owns no cgroup file names.

Spec: OCI runtime-spec 1.2 config-linux.md "Control groups".
"""

from __future__ import annotations

from typing import Any

import msgspec

from oakum.backend.config import Resources
from oakum.errors import InvalidArgument


def linux_resources(resources: Resources) -> dict[str, Any]:
    """The limits that are said, and only those.

    A memory limit without a word on swap allows no swap beyond it, as the kubelet expects.
    """
    found: dict[str, Any] = {}
    cpu = {
        "shares": resources.cpu_shares,
        "quota": resources.cpu_quota_us,
        "period": resources.cpu_period_us,
        "cpus": resources.cpuset_cpus,
        "mems": resources.cpuset_mems,
    }
    cpu = {name: value for name, value in cpu.items() if value}
    if cpu:
        found["cpu"] = cpu
    memory = {
        "limit": resources.memory_limit_bytes,
        "swap": resources.memory_swap_limit_bytes or resources.memory_limit_bytes,
        "reservation": resources.memory_reservation_bytes,
    }
    memory = {name: value for name, value in memory.items() if value}
    if memory:
        found["memory"] = memory
    if resources.pids_limit:
        found["pids"] = {"limit": resources.pids_limit}
    if resources.hugepage_limits:
        found["hugepageLimits"] = [
            {"pageSize": limit.page_size, "limit": limit.limit_bytes} for limit in resources.hugepage_limits
        ]
    if resources.unified:
        found["unified"] = dict(resources.unified)
    return found


def check(resources: Resources) -> None:
    """Refuse limits that cannot be meant.

    Raises:
        InvalidArgument: one of them is out of its range.
    """
    memory, swap = resources.memory_limit_bytes, resources.memory_swap_limit_bytes
    if memory < -1 or (0 < memory < 4096):
        raise InvalidArgument("limit memory", str(memory), "less than one page")
    if memory > 0 and 0 < swap < memory:
        raise InvalidArgument(
            "limit swap", str(swap), f"memory and swap together are below memory alone ({memory})"
        )
    if resources.cpu_quota_us and resources.cpu_quota_us != -1 and resources.cpu_quota_us < 1000:
        raise InvalidArgument("limit cpu", str(resources.cpu_quota_us), "a quota is at least 1000 us")
    if resources.cpu_period_us and not 1000 <= resources.cpu_period_us <= 1_000_000:
        raise InvalidArgument("limit cpu", str(resources.cpu_period_us), "a period is 1000 us to 1 s")
    score = resources.oom_score_adj
    if score is not None and not -1000 <= score <= 1000:
        raise InvalidArgument("set oom_score_adj", str(score), "outside -1000 to 1000")
    for name in resources.unified:
        if "/" in name or "." not in name or name.startswith("."):
            raise InvalidArgument("set unified resource", repr(name), "not the name of a cgroup v2 file")


def merge(current: Resources, change: Resources) -> Resources:
    """`current` with what `change` says; 0 and empty fields of `change` leave things as they are."""
    said: dict[str, Any] = {
        name: value
        for name in Resources.__struct_fields__
        if (value := getattr(change, name)) not in (0, "", (), {}, None)
        or (name == "oom_score_adj" and value == 0)
    }
    if "unified" in said:
        said["unified"] = {**current.unified, **change.unified}
    limit = said.get("memory_limit_bytes", 0)
    if limit > 0 and "memory_swap_limit_bytes" not in said and 0 < current.memory_swap_limit_bytes < limit:
        # The old sum of memory and swap would be below the new memory alone; the kernel refuses that.
        said["memory_swap_limit_bytes"] = limit
    return msgspec.structs.replace(current, **said)


def said_by(change: Resources, merged: Resources) -> Resources:
    """The part of `merged` that `change` touches, for the runtime: unnamed limits are not written again.

    Limits that bound each other (memory and swap, quota and period) go together.
    """
    keep: set[str] = {
        name for name in Resources.__struct_fields__ if getattr(change, name) not in (0, "", (), {}, None)
    }
    if keep & {"memory_limit_bytes", "memory_swap_limit_bytes"}:
        keep |= {"memory_limit_bytes", "memory_swap_limit_bytes"}
    if keep & {"cpu_quota_us", "cpu_period_us"}:
        keep |= {"cpu_quota_us", "cpu_period_us"}
    return Resources(**{name: getattr(merged, name) for name in keep})
