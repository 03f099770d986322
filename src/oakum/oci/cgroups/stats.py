# SPDX-License-Identifier: Apache-2.0
"""What a control group has used, read from v1, v2 or both into one shape. Parsers are pure; `read_stats` opens the files.

Source: kernel docs admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller}, admin-guide/cgroup-v2, accounting/psi.
"""

from __future__ import annotations

import os
import time

from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci.cgroups.layout import Hierarchy, Layout, normalise_path

if TYPE_CHECKING:
    from typing import Final

# v1 says "no limit" with the largest page-aligned number.
_UNLIMITED_V1: Final = 1 << 62
_TICK_NS: Final = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") or 100)


class Pressure(NamedTuple):
    """One line of a pressure file: shares of time in percent, and the total stall time."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


class PressurePair(NamedTuple):
    """Stalls of some and of all tasks of the group."""

    some: Pressure
    full: Pressure


class CgroupStats(NamedTuple):
    """Usage of one group with its children. None: the host does not account it (or sets no limit)."""

    timestamp_ns: int
    cpu_usage_ns: int | None = None
    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    cpu_periods: int | None = None
    cpu_throttled_periods: int | None = None
    cpu_throttled_ns: int | None = None
    memory_usage_bytes: int | None = None
    memory_working_set_bytes: int | None = None
    memory_rss_bytes: int | None = None
    memory_cache_bytes: int | None = None
    memory_limit_bytes: int | None = None
    memory_peak_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap_usage_bytes: int | None = None
    swap_limit_bytes: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    io_read_operations: int | None = None
    io_write_operations: int | None = None
    cpu_pressure: PressurePair | None = None
    memory_pressure: PressurePair | None = None
    io_pressure: PressurePair | None = None


def read_stats(layout: Layout, path: str) -> CgroupStats:
    """The statistics of the group at `path`; what is not there (any more) is None."""
    path = normalise_path(path)
    stats = CgroupStats(timestamp_ns=time.time_ns())
    stats = _cpu(stats, layout, path)
    stats = _memory(stats, layout, path)
    if tree := layout.of("pids"):
        stats = stats._replace(
            pids=_number(read_file(tree, path, "pids.current")),
            pids_limit=_limit(read_file(tree, path, "pids.max")),
        )
    stats = _io(stats, layout, path)
    if tree := layout.unified:
        stats = stats._replace(
            cpu_pressure=parse_pressure(read_file(tree, path, "cpu.pressure")),
            memory_pressure=parse_pressure(read_file(tree, path, "memory.pressure")),
            io_pressure=parse_pressure(read_file(tree, path, "io.pressure")),
        )
    return stats


def parse_keyed(text: str) -> dict[str, int]:
    """Lines of "key number"; others are passed over."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        number = _number(value)
        if key and number is not None:
            values[key] = number
    return values


def parse_io_stat(text: str) -> dict[str, int]:
    """The sums over all devices of cgroup v2 io.stat ("8:0 rbytes=1 wbytes=2 ...")."""
    totals: dict[str, int] = {}
    for line in text.splitlines():
        for pair in line.split()[1:]:
            key, _, value = pair.partition("=")
            number = _number(value)
            if number is not None:
                totals[key] = totals.get(key, 0) + number
    return totals


def parse_blkio(text: str) -> dict[str, int]:
    """The sums over all devices of a cgroup v1 blkio file ("8:0 Read 4096")."""
    totals: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3:
            number = _number(fields[2])
            if number is not None:
                totals[fields[1]] = totals.get(fields[1], 0) + number
    return totals


def parse_pressure(text: str) -> PressurePair | None:
    """A pressure file, or None when it is absent or not understood; "full" may be missing on old kernels."""
    lines: dict[str, Pressure] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        try:
            lines[kind] = Pressure(
                float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"])
            )
        except (KeyError, ValueError):
            continue
    if "some" not in lines:
        return None
    return PressurePair(lines["some"], lines.get("full", Pressure(0.0, 0.0, 0.0, 0)))


def working_set(usage: int, inactive_file: int) -> int:
    """Memory that cannot be taken back without pain, as the kubelet computes it."""
    return max(0, usage - inactive_file)


def _cpu(stats: CgroupStats, layout: Layout, path: str) -> CgroupStats:
    throttle_tree = layout.of("cpu")
    if layout.mode == "v2":
        # cpu.stat has usage even without the controller.
        tree = layout.unified
        values = parse_keyed(read_file(tree, path, "cpu.stat")) if tree else {}
        return stats._replace(
            cpu_usage_ns=_scaled(values.get("usage_usec")),
            cpu_user_ns=_scaled(values.get("user_usec")),
            cpu_system_ns=_scaled(values.get("system_usec")),
            cpu_periods=values.get("nr_periods"),
            cpu_throttled_periods=values.get("nr_throttled"),
            cpu_throttled_ns=_scaled(values.get("throttled_usec")),
        )
    if tree := layout.of("cpuacct"):
        ticks = parse_keyed(read_file(tree, path, "cpuacct.stat"))
        stats = stats._replace(
            cpu_usage_ns=_number(read_file(tree, path, "cpuacct.usage")),
            cpu_user_ns=_scaled(ticks.get("user"), _TICK_NS),
            cpu_system_ns=_scaled(ticks.get("system"), _TICK_NS),
        )
    if throttle_tree:
        values = parse_keyed(read_file(throttle_tree, path, "cpu.stat"))
        stats = stats._replace(
            cpu_periods=values.get("nr_periods"),
            cpu_throttled_periods=values.get("nr_throttled"),
            cpu_throttled_ns=values.get("throttled_time"),
        )
    return stats


def _memory(stats: CgroupStats, layout: Layout, path: str) -> CgroupStats:
    tree = layout.of("memory")
    if tree is None:
        return stats
    values = parse_keyed(read_file(tree, path, "memory.stat"))
    if tree.version == 2:
        usage = _number(read_file(tree, path, "memory.current"))
        inactive = values.get("inactive_file", 0)
        return stats._replace(
            memory_usage_bytes=usage,
            memory_working_set_bytes=None if usage is None else working_set(usage, inactive),
            memory_rss_bytes=values.get("anon"),
            memory_cache_bytes=values.get("file"),
            memory_limit_bytes=_limit(read_file(tree, path, "memory.max")),
            memory_peak_bytes=_number(read_file(tree, path, "memory.peak")),
            page_faults=values.get("pgfault"),
            major_page_faults=values.get("pgmajfault"),
            swap_usage_bytes=_number(read_file(tree, path, "memory.swap.current")),
            swap_limit_bytes=_limit(read_file(tree, path, "memory.swap.max")),
        )
    usage = _number(read_file(tree, path, "memory.usage_in_bytes"))
    inactive = values.get("total_inactive_file", 0)
    both = _number(read_file(tree, path, "memory.memsw.usage_in_bytes"))
    both_limit = _limit(read_file(tree, path, "memory.memsw.limit_in_bytes"))
    limit = _limit(read_file(tree, path, "memory.limit_in_bytes"))
    return stats._replace(
        memory_usage_bytes=usage,
        memory_working_set_bytes=None if usage is None else working_set(usage, inactive),
        memory_rss_bytes=values.get("total_rss"),
        memory_cache_bytes=values.get("total_cache"),
        memory_limit_bytes=limit,
        memory_peak_bytes=_number(read_file(tree, path, "memory.max_usage_in_bytes")),
        page_faults=values.get("total_pgfault"),
        major_page_faults=values.get("total_pgmajfault"),
        swap_usage_bytes=None if both is None or usage is None else max(0, both - usage),
        swap_limit_bytes=None if both_limit is None or limit is None else max(0, both_limit - limit),
    )


def _io(stats: CgroupStats, layout: Layout, path: str) -> CgroupStats:
    if tree := layout.of("io"):
        values = parse_io_stat(read_file(tree, path, "io.stat"))
        return stats._replace(
            io_read_bytes=values.get("rbytes", 0),
            io_write_bytes=values.get("wbytes", 0),
            io_read_operations=values.get("rios", 0),
            io_write_operations=values.get("wios", 0),
        )
    if tree := layout.of("blkio"):
        amount = parse_blkio(read_file(tree, path, "blkio.throttle.io_service_bytes_recursive"))
        count = parse_blkio(read_file(tree, path, "blkio.throttle.io_serviced_recursive"))
        return stats._replace(
            io_read_bytes=amount.get("Read", 0),
            io_write_bytes=amount.get("Write", 0),
            io_read_operations=count.get("Read", 0),
            io_write_operations=count.get("Write", 0),
        )
    return stats


def _scaled(value: int | None, factor: int = 1000) -> int | None:
    return None if value is None else value * factor


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None


def read_number(tree: Hierarchy, path: str, file: str) -> int | None:
    """The number in one of a group's files; None when there is none."""
    return _number(read_file(tree, path, file))


def _limit(text: str) -> int | None:
    """A limit, or None for "max" and v1's largest number."""
    number = _number(text)
    return None if number is None or number >= _UNLIMITED_V1 else number


def read_file(tree: Hierarchy, path: str, file: str) -> str:
    """The text of one of a group's files; "" when it is not there, or cannot be read."""
    try:
        fd = os.open(f"{tree.mountpoint}{path}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # a feature this kernel lacks, or the group is gone: both are "not known"
    try:
        return os.read(fd, 65536).decode("ascii", "replace")
    except OSError:
        return ""  # ENODEV, EOPNOTSUPP: as above
    finally:
        os.close(fd)
