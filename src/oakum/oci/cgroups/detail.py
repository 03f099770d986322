# SPDX-License-Identifier: Apache-2.0
"""What `stats` leaves out because only metrics ask for it: bytes by device, huge pages, processes and what they hold.

Parsers are pure; the readers open the files. None, or an empty mapping: the host does not account it.
Source: kernel docs admin-guide/cgroup-v1/{memory,hugetlb,blkio-controller}, admin-guide/cgroup-v2; proc(5).
"""

from __future__ import annotations

import os

from oakum.linux.pids import stat_fields
from oakum.model.light import TYPE_CHECKING, NamedTuple
from oakum.oci.cgroups.layout import Hierarchy, Layout, normalise_path
from oakum.oci.cgroups.stats import parse_keyed, read_file, read_number

if TYPE_CHECKING:
    from typing import Final

_READ_WRITE: Final[tuple[str, ...]] = ("Read", "Write")
# The states of a task in /proc/PID/stat, under the names that cAdvisor gives them.
_STATES: Final = {
    "S": "sleeping",
    "I": "sleeping",
    "R": "running",
    "T": "stopped",
    "t": "stopped",
    "D": "uninterruptible",
}
TASK_STATES: Final[tuple[str, ...]] = ("sleeping", "running", "stopped", "uninterruptible", "iowaiting")


class DeviceIo(NamedTuple):
    """What went to and came from one block device; the keys are "Read" and "Write"."""

    amount_bytes: dict[str, int]
    operations: dict[str, int]


class HugePages(NamedTuple):
    """Use of one size of huge pages."""

    usage_bytes: int
    max_usage_bytes: int | None
    failures: int | None


class CgroupDetail(NamedTuple):
    """One group with its children."""

    memory_mapped_bytes: int | None = None
    memory_kernel_bytes: int | None = None
    memory_active_file_bytes: int | None = None
    memory_inactive_file_bytes: int | None = None
    memory_limit_hits: int | None = None
    page_faults_own: int | None = None
    major_page_faults_own: int | None = None
    oom_kills: int | None = None
    bursts: int | None = None
    burst_ns: int | None = None
    devices: dict[tuple[int, int], DeviceIo] = {}
    huge_pages: dict[str, HugePages] = {}


class Processes(NamedTuple):
    """What the processes of a group are and hold at this moment."""

    processes: int
    threads: int
    file_descriptors: int
    sockets: int
    states: dict[str, int]
    open_files_limit: int | None


def read_detail(layout: Layout, path: str) -> CgroupDetail:
    """The detail of the group at `path`; what is not there (any more) is None."""
    path = normalise_path(path)
    detail = _memory(CgroupDetail(), layout, path)
    if tree := layout.unified if layout.mode == "v2" else layout.of("cpu"):
        values = parse_keyed(read_file(tree, path, "cpu.stat"))
        micro = values.get("burst_usec")
        detail = detail._replace(
            bursts=values.get("nr_bursts"),
            burst_ns=micro * 1000 if micro is not None else values.get("burst_time"),
        )
    if tree := layout.of("io"):
        detail = detail._replace(devices=parse_io_devices(read_file(tree, path, "io.stat")))
    elif tree := layout.of("blkio"):
        detail = detail._replace(
            devices=parse_blkio_devices(
                read_file(tree, path, "blkio.throttle.io_service_bytes_recursive"),
                read_file(tree, path, "blkio.throttle.io_serviced_recursive"),
            )
        )
    if tree := layout.of("hugetlb"):
        detail = detail._replace(huge_pages=_huge_pages(tree, path))
    return detail


def _memory(detail: CgroupDetail, layout: Layout, path: str) -> CgroupDetail:
    tree = layout.of("memory")
    if tree is None:
        return detail
    values = parse_keyed(read_file(tree, path, "memory.stat"))
    if tree.version == 2:
        events = parse_keyed(read_file(tree, path, "memory.events"))
        return detail._replace(
            memory_mapped_bytes=values.get("file_mapped"),
            memory_kernel_bytes=values.get("kernel"),
            memory_active_file_bytes=values.get("active_file"),
            memory_inactive_file_bytes=values.get("inactive_file"),
            memory_limit_hits=events.get("max"),
            page_faults_own=values.get("pgfault"),
            major_page_faults_own=values.get("pgmajfault"),
            oom_kills=events.get("oom_kill"),
        )
    return detail._replace(
        memory_mapped_bytes=values.get("total_mapped_file"),
        memory_kernel_bytes=read_number(tree, path, "memory.kmem.usage_in_bytes"),
        memory_active_file_bytes=values.get("total_active_file"),
        memory_inactive_file_bytes=values.get("total_inactive_file"),
        memory_limit_hits=read_number(tree, path, "memory.failcnt"),
        page_faults_own=values.get("pgfault"),
        major_page_faults_own=values.get("pgmajfault"),
        oom_kills=parse_keyed(read_file(tree, path, "memory.oom_control")).get("oom_kill"),
    )


def parse_io_devices(text: str) -> dict[tuple[int, int], DeviceIo]:
    """Cgroup v2 io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ..."."""
    found: dict[tuple[int, int], DeviceIo] = {}
    for line in text.splitlines():
        name, *pairs = line.split() or [""]
        device = _device(name)
        values = {key: int(value) for key, _, value in (p.partition("=") for p in pairs) if value.isdecimal()}
        if device is not None:
            found[device] = DeviceIo(
                dict(zip(_READ_WRITE, (values.get("rbytes", 0), values.get("wbytes", 0)), strict=True)),
                dict(zip(_READ_WRITE, (values.get("rios", 0), values.get("wios", 0)), strict=True)),
            )
    return found


def parse_blkio_devices(amounts: str, counts: str) -> dict[tuple[int, int], DeviceIo]:
    """Cgroup v1 blkio files of bytes and of operations: "8:0 Read 4096"."""
    found: dict[tuple[int, int], DeviceIo] = {}
    for index, text in enumerate((amounts, counts)):
        for line in text.splitlines():
            fields = line.split()
            device = _device(fields[0]) if len(fields) == 3 else None
            if device is not None and fields[1] in _READ_WRITE and fields[2].isdecimal():
                io = found.setdefault(
                    device, DeviceIo(dict.fromkeys(_READ_WRITE, 0), dict.fromkeys(_READ_WRITE, 0))
                )
                io[index][fields[1]] = int(fields[2])
    return found


def _device(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(":")
    if major.isascii() and major.isdecimal() and minor.isascii() and minor.isdecimal():
        return int(major), int(minor)
    return None


def _huge_pages(tree: Hierarchy, path: str) -> dict[str, HugePages]:
    found: dict[str, HugePages] = {}
    try:
        names = os.listdir(f"{tree.mountpoint}{path}")
    except OSError:
        return found  # the group is gone, or was never made in this tree
    ending = ".current" if tree.version == 2 else ".usage_in_bytes"
    for name in sorted(names):
        parts = name.split(".")
        if len(parts) != 3 or parts[0] != "hugetlb" or not name.endswith(ending) or "rsvd" in parts:
            continue
        size = parts[1]
        usage = read_number(tree, path, name)
        if usage is None:
            continue
        if tree.version == 2:
            events = parse_keyed(read_file(tree, path, f"hugetlb.{size}.events"))
            found[size] = HugePages(usage, None, events.get("max"))
        else:
            found[size] = HugePages(
                usage,
                read_number(tree, path, f"hugetlb.{size}.max_usage_in_bytes"),
                read_number(tree, path, f"hugetlb.{size}.failcnt"),
            )
    return found


def read_processes(layout: Layout, path: str, *, main_pid: int = 0) -> Processes:
    """What runs in the group at `path`; `main_pid` is whose limit of open files is told."""
    path = normalise_path(path)
    tree = layout.of("pids") or layout.unified or layout.hierarchies[0]
    pids = [line for line in read_file(tree, path, "cgroup.procs").split() if line.isdecimal()]
    states: dict[str, int] = dict.fromkeys(TASK_STATES, 0)
    threads = descriptors = sockets = 0
    for pid in pids:
        state, count = _state(pid)
        if state:
            states[state] += 1
        threads += count
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                for entry in entries:
                    descriptors += 1
                    sockets += _is_socket(entry.path)
        except OSError:
            continue  # it has ended meanwhile
    return Processes(len(pids), threads, descriptors, sockets, states, _open_files_limit(main_pid))


def _is_socket(link: str) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except OSError:
        return False  # closed meanwhile


def _state(pid: str) -> tuple[str, int]:
    """The state of a process, and how many threads it has; "" and 0 when it has ended."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return "", 0
    return _STATES.get(fields[0].decode("ascii", "replace"), ""), int(fields[17])


def _open_files_limit(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Max open files"):
                    soft = line.split()[3]
                    return int(soft) if soft.isdecimal() else -1
    except OSError:
        return None  # it has ended, or there is none
    return None
