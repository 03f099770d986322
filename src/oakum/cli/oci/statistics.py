# SPDX-License-Identifier: Apache-2.0
"""The statistics of `oakum oci events` in the members and units that callers of runc read. Reads control group files only.

What the host does not count is 0 or left out. Swap is memory and swap together, also on v2, as those callers have it.
"""

from __future__ import annotations

from oakum.model.light import TYPE_CHECKING
from oakum.oci.cgroups.stats import parse_keyed, read_file, read_number, read_stats

if TYPE_CHECKING:
    from typing import Any, Final

    from oakum.oci.cgroups.layout import Hierarchy, Layout
    from oakum.oci.cgroups.stats import CgroupStats, PressurePair

_UNLIMITED: Final = (1 << 64) - 1
# Members that have the names of files below cpuset.
_CPUSET: Final = (
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
)
_OPERATIONS: Final = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
}
_BLKIO: Final = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
)


def collect(layout: Layout, path: str) -> dict[str, Any]:
    """The data of one "stats" event."""
    stats = read_stats(layout, path)
    data: dict[str, Any] = {
        "cpu": _cpu(layout, path, stats),
        "cpuset": _cpuset(layout, path),
        "memory": _memory(layout, path, stats),
        "pids": {"current": stats.pids or 0, **({"limit": stats.pids_limit} if stats.pids_limit else {})},
        "blkio": _blkio(layout, path),
        "hugetlb": _hugetlb(layout, path),
        "intel_rdt": {},
        "network_interfaces": None,
    }
    for kind, pair in (
        ("cpu", stats.cpu_pressure),
        ("memory", stats.memory_pressure),
        ("blkio", stats.io_pressure),
    ):
        if pair is not None:
            data[kind]["psi"] = _pressure(pair)
    return data


def _cpu(layout: Layout, path: str, stats: CgroupStats) -> dict[str, Any]:
    usage: dict[str, Any] = {"total": stats.cpu_usage_ns or 0}
    tree = layout.of("cpuacct")
    if tree is not None:
        rows = [line.split() for line in read_file(tree, path, "cpuacct.usage_all").splitlines()[1:]]
        columns = [row for row in rows if len(row) == 3 and all(cell.isdecimal() for cell in row)]
        if columns:
            usage["percpu"] = [int(user) + int(system) for _, user, system in columns]
            usage["percpu_kernel"] = [int(system) for _, _, system in columns]
            usage["percpu_user"] = [int(user) for _, user, _ in columns]
    return {
        "usage": {**usage, "kernel": stats.cpu_system_ns or 0, "user": stats.cpu_user_ns or 0},
        "throttling": {
            "periods": stats.cpu_periods or 0,
            "throttledPeriods": stats.cpu_throttled_periods or 0,
            "throttledTime": stats.cpu_throttled_ns or 0,
        },
    }


def _cpuset(layout: Layout, path: str) -> dict[str, Any]:
    tree = layout.of("cpuset")
    if tree is None or tree.version == 2:
        return {}
    found: dict[str, Any] = {}
    for name in ("cpus", "mems"):
        found[name] = numbers(read_file(tree, path, f"cpuset.{name}"))
    for name in _CPUSET:
        text = read_file(tree, path, f"cpuset.{name}").strip()
        if text.removeprefix("-").isdecimal():
            found[name] = int(text)
    return found


def numbers(text: str) -> list[int]:
    """The members of a list as "0-2,4". Pure."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found += range(int(first), int(last or first) + 1)
    return found


def _memory(layout: Layout, path: str, stats: CgroupStats) -> dict[str, Any]:
    tree = layout.of("memory")
    data: dict[str, Any] = {"cache": stats.memory_cache_bytes or 0}
    if tree is not None and tree.version == 1:
        for member, prefix in (
            ("usage", "memory"),
            ("swap", "memory.memsw"),
            ("kernel", "memory.kmem"),
            ("kernelTCP", "memory.kmem.tcp"),
        ):
            data[member] = _counter(tree, path, prefix)
    else:
        data["usage"] = _shown(stats.memory_limit_bytes, stats.memory_usage_bytes, stats.memory_peak_bytes)
        both = None
        if stats.memory_limit_bytes is not None and stats.swap_limit_bytes is not None:
            both = stats.memory_limit_bytes + stats.swap_limit_bytes
        data["swap"] = _shown(both, (stats.memory_usage_bytes or 0) + (stats.swap_usage_bytes or 0), None)
    if tree is not None:
        data["raw"] = parse_keyed(read_file(tree, path, "memory.stat"))
    return data


def _counter(tree: Hierarchy, path: str, prefix: str) -> dict[str, int]:
    def number(name: str) -> int | None:
        return read_number(tree, path, f"{prefix}.{name}")

    shown = _shown(number("limit_in_bytes"), number("usage_in_bytes"), number("max_usage_in_bytes"))
    return {**shown, "failcnt": number("failcnt") or 0}


def _shown(limit: int | None, usage: int | None, peak: int | None) -> dict[str, int]:
    shown: dict[str, int] = {"limit": _UNLIMITED if limit is None else limit, "usage": usage or 0}
    return {**shown, **({} if peak is None else {"max": peak}), "failcnt": 0}


def _blkio(layout: Layout, path: str) -> dict[str, Any]:
    if (tree := layout.of("blkio")) is not None:
        found: dict[str, Any] = {}
        for member, file in _BLKIO:
            text = read_file(tree, path, f"blkio.bfq.{file}")
            entries = blkio_entries(text) or blkio_entries(read_file(tree, path, f"blkio.throttle.{file}"))
            if entries:
                found[member] = entries
        return found
    tree = layout.of("io")
    return {} if tree is None else io_entries(read_file(tree, path, "io.stat"))


def blkio_entries(text: str) -> list[dict[str, Any]]:
    """The lines of a v1 file, "8:0 Read 4096", but for the sums. Pure."""
    entries: list[dict[str, Any]] = []
    for line in text.splitlines():
        fields = line.split()
        major, separator, minor = fields[0].partition(":") if fields else ("", "", "")
        if len(fields) == 3 and separator and (major + minor + fields[2]).isdecimal():
            entries.append(
                {"major": int(major), "minor": int(minor), "op": fields[1], "value": int(fields[2])}
            )
    return entries


def io_entries(text: str) -> dict[str, list[dict[str, Any]]]:
    """The v2 file io.stat as v1 files have it, "8:0 rbytes=1 wbytes=2 rios=3 wios=4". Pure."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        device, *pairs = line.split() or [""]
        major, _, minor = device.partition(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _OPERATIONS and (major + minor + value).isdecimal():
                member, operation = _OPERATIONS[key]
                entry = {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}
                found.setdefault(member, []).append(entry)
    return found


def _hugetlb(layout: Layout, path: str) -> dict[str, Any]:
    tree = layout.of("hugetlb")
    if tree is None:
        return {}
    found: dict[str, Any] = {}
    for size in ("64KB", "2MB", "32MB", "1GB"):
        if tree.version == 1:
            usage = read_number(tree, path, f"hugetlb.{size}.usage_in_bytes")
            peak = read_number(tree, path, f"hugetlb.{size}.max_usage_in_bytes")
            failures = read_number(tree, path, f"hugetlb.{size}.failcnt")
        else:
            usage, peak = read_number(tree, path, f"hugetlb.{size}.current"), None
            failures = parse_keyed(read_file(tree, path, f"hugetlb.{size}.events")).get("max")
        if usage is not None:
            found[size] = {
                "usage": usage,
                **({} if peak is None else {"max": peak}),
                "failcnt": failures or 0,
            }
    return found


def _pressure(pair: PressurePair) -> dict[str, dict[str, float]]:
    return {
        name: {"avg10": p.avg10, "avg60": p.avg60, "avg300": p.avg300, "total": p.total_us}
        for name, p in (("some", pair.some), ("full", pair.full))
    }
