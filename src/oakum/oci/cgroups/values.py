# SPDX-License-Identifier: Apache-2.0
"""linux.resources as the writes that cgroup v1 and v2 want: pure conversion, nothing is opened here.

Spec: runtime-spec config-linux "Control groups". Source: kernel docs admin-guide/cgroup-v1/*, cgroup-v2.
"""

from __future__ import annotations

from oakum.errors import InvalidArgument
from oakum.model.light import TYPE_CHECKING, NamedTuple, cast
from oakum.oci.spec import DeviceRule, LinuxResources

if TYPE_CHECKING:
    from typing import Any


class Write(NamedTuple):
    """Write `value` to `file` of `controller`; an `optional` one may fail with a warning (the feature is compiled out)."""

    controller: str
    file: str
    value: str
    optional: bool = False

    def describe(self) -> str:
        """For messages and dry runs."""
        return f"{self.file} = {self.value!r}"


def weight_of_shares(shares: int) -> int:
    """Cgroup v2 cpu.weight (1-10000) for v1 cpu.shares (2-262144); the default 1024 becomes the default 100.

    The curve through (2, 1), (1024, 100) and (262144, 10000) that other runtimes use since 2025: quadratic in
    the logarithm, so that small shares keep their proportions.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    import math  # a library to load, only for those with shares

    log = math.log2(shares)
    return max(1, min(10000, math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))))


def io_weight_of_blkio(weight: int) -> int:
    """Cgroup v2 io.weight (1-10000) for v1 blkio.weight (10-1000)."""
    return 1 + (max(10, min(1000, weight)) - 10) * 9999 // 990


def limit_text(value: int) -> str:
    """A v2 limit: -1 is "max"."""
    return "max" if value < 0 else str(value)


def swap_of(memory: dict[str, Any]) -> int | None:
    """Cgroup v2 memory.swap.max for the spec's `swap`, which counts memory and swap together; None = leave alone.

    Raises:
        InvalidArgument: swap is below the memory limit.
    """
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap is None or swap == 0:
        return None
    if swap < 0:
        return -1
    if not limit or limit < 0:
        raise InvalidArgument("set memory limit", f"swap {swap}", "a swap limit needs a memory limit")
    if swap < limit:
        raise InvalidArgument("set memory limit", f"swap {swap}", f"below the memory limit {limit}")
    return int(swap - limit)


def plan_v2(resources: LinuxResources) -> list[Write]:
    """The writes for a v2 group, devices excepted (they are a BPF program). Raises InvalidArgument."""
    writes: list[Write] = []
    memory: dict[str, Any] = resources.get("memory") or {}
    if memory.get("limit"):
        writes.append(Write("memory", "memory.max", limit_text(memory["limit"])))
    if memory.get("reservation"):
        writes.append(Write("memory", "memory.low", limit_text(memory["reservation"])))
    if (swap := swap_of(memory)) is not None:
        writes.append(Write("memory", "memory.swap.max", limit_text(swap), optional=True))
    writes += _cpu_v2(resources.get("cpu") or {})
    if limit := (resources.get("pids") or {}).get("limit"):
        writes.append(Write("pids", "pids.max", limit_text(limit)))
    writes += _io_v2(resources.get("blockIO") or {})
    for page in resources.get("hugepageLimits") or []:
        writes.append(Write("hugetlb", f"hugetlb.{page['pageSize']}.max", str(page["limit"]), optional=True))
    writes += _rdma(resources)
    writes += _network_v1(resources.get("network") or {})  # there is no such controller: refused by name
    for key, value in (resources.get("unified") or {}).items():
        if "/" in key or "." not in key:
            raise InvalidArgument("set cgroup value", repr(key), "not the name of a cgroup v2 file")
        writes.append(Write(key.partition(".")[0], key, value))
    return writes


def _cpu_v2(cpu: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if cpu.get("shares"):
        writes.append(Write("cpu", "cpu.weight", str(weight_of_shares(cpu["shares"]))))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        writes.append(Write("cpu", "cpu.max", f"{limit_text(quota) if quota else 'max'} {period or 100000}"))
    if cpu.get("burst") is not None:
        writes.append(Write("cpu", "cpu.max.burst", str(cpu["burst"])))
    if cpu.get("idle") is not None:
        writes.append(Write("cpu", "cpu.idle", str(cpu["idle"])))
    writes += [Write("cpuset", f"cpuset.{name}", cpu[name]) for name in ("cpus", "mems") if cpu.get(name)]
    return writes


_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _io_v2(block: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if block.get("weight"):
        writes.append(
            Write("io", "io.weight", f"default {io_weight_of_blkio(block['weight'])}", optional=True)
        )
    for device in cast("list[dict[str, int]]", block.get("weightDevice") or []):
        if device.get("weight"):
            weight = io_weight_of_blkio(device["weight"])
            writes.append(Write("io", "io.weight", f"{device['major']}:{device['minor']} {weight}"))
    for member, _, key in _THROTTLES:
        for device in cast("list[dict[str, int]]", block.get(member) or []):
            rate = device["rate"] or "max"
            writes.append(Write("io", "io.max", f"{device['major']}:{device['minor']} {key}={rate}"))
    return writes


def plan_v1(resources: LinuxResources) -> list[Write]:
    """The writes for v1 groups. Raises InvalidArgument."""
    memory: dict[str, Any] = resources.get("memory") or {}
    cpu: dict[str, Any] = resources.get("cpu") or {}
    swap_of(memory)  # the same rules hold
    writes: list[Write] = []
    if memory.get("limit"):
        writes.append(Write("memory", "memory.limit_in_bytes", str(memory["limit"])))
    if memory.get("swap"):
        writes.append(Write("memory", "memory.memsw.limit_in_bytes", str(memory["swap"]), optional=True))
    for member, file in (
        ("reservation", "memory.soft_limit_in_bytes"),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
    ):
        if memory.get(member):
            writes.append(Write("memory", file, str(memory[member]), optional=member == "kernelTCP"))
    if memory.get("swappiness") is not None:
        writes.append(Write("memory", "memory.swappiness", str(memory["swappiness"])))
    if memory.get("disableOOMKiller"):
        writes.append(Write("memory", "memory.oom_control", "1"))
    for member, file in (
        ("shares", "cpu.shares"),
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
        ("idle", "cpu.idle"),
    ):
        if cpu.get(member):
            writes.append(Write("cpu", file, str(cpu[member])))
    writes += [Write("cpuset", f"cpuset.{name}", cpu[name]) for name in ("cpus", "mems") if cpu.get(name)]
    if limit := (resources.get("pids") or {}).get("limit"):
        writes.append(Write("pids", "pids.max", limit_text(limit)))
    writes += _blkio_v1(resources.get("blockIO") or {})
    for page in resources.get("hugepageLimits") or []:
        # Optional: a kubelet always sends these, also 0, and whether the host has the controller.
        file = f"hugetlb.{page['pageSize']}.limit_in_bytes"
        writes.append(Write("hugetlb", file, str(page["limit"]), optional=True))
    writes += _rdma(resources)
    writes += _network_v1(resources.get("network") or {})
    writes += device_writes_v1(resources.get("devices") or [])
    return writes


def _rdma(resources: LinuxResources) -> list[Write]:
    """The same file in both versions. Source: kernel docs admin-guide/cgroup-v1/rdma."""
    writes: list[Write] = []
    for device, limits in (resources.get("rdma") or {}).items():
        values = [
            f"{name}={limits[member]}"
            for member, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(member) is not None
        ]
        writes.append(Write("rdma", "rdma.max", " ".join([device, *values])))
    return writes


def _network_v1(network: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if network.get("classID"):
        writes.append(Write("net_cls", "net_cls.classid", str(network["classID"])))
    for item in cast("list[dict[str, Any]]", network.get("priorities") or []):
        writes.append(Write("net_prio", "net_prio.ifpriomap", f"{item['name']} {item['priority']}"))
    return writes


def _blkio_v1(block: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if block.get("weight"):
        writes.append(Write("blkio", "blkio.weight", str(block["weight"]), optional=True))
    if block.get("leafWeight"):
        writes.append(Write("blkio", "blkio.leaf_weight", str(block["leafWeight"]), optional=True))
    for device in cast("list[dict[str, int]]", block.get("weightDevice") or []):
        for member, file in (("weight", "blkio.weight_device"), ("leafWeight", "blkio.leaf_weight_device")):
            if device.get(member):
                writes.append(Write("blkio", file, f"{device['major']}:{device['minor']} {device[member]}"))
    for member, file, _ in _THROTTLES:
        for device in cast("list[dict[str, int]]", block.get(member) or []):
            writes.append(Write("blkio", file, f"{device['major']}:{device['minor']} {device['rate']}"))
    return writes


def device_writes_v1(rules: list[DeviceRule]) -> list[Write]:
    """The device rules in their order, as lines for devices.allow and devices.deny."""
    writes: list[Write] = []
    for rule in rules:
        kind, access, major, minor = device_rule(rule)
        file = "devices.allow" if rule.get("allow") else "devices.deny"
        line = f"{kind} {_number(major)}:{_number(minor)} {access}"
        writes.append(Write("devices", file, "a" if kind == "a" else line))
    return writes


def device_rule(rule: DeviceRule) -> tuple[str, str, int, int]:
    """Type ("a", "b", "c"), access, major and minor (-1: any) of a rule, defaults filled in.

    Raises:
        InvalidArgument: the access is not made of r, w and m.
    """
    access = rule.get("access") or "rwm"
    if set(access) - set("rwm"):
        raise InvalidArgument("read device rule", repr(access), "access is made of r, w and m")
    major, minor = rule.get("major"), rule.get("minor")
    return rule.get("type") or "a", access, -1 if major is None else major, -1 if minor is None else minor


def _number(value: int) -> str:
    return "*" if value < 0 else str(value)
