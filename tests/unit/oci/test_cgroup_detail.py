# SPDX-License-Identifier: Apache-2.0
"""What metrics read of control groups: real files of both versions, and whatever else may stand in them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from oakum.oci.cgroups.detail import (
    HugePages,
    parse_blkio_devices,
    parse_io_devices,
    read_detail,
    read_processes,
)
from oakum.oci.cgroups.layout import Hierarchy, Layout


def test_bytes_and_operations_by_device() -> None:
    v2 = parse_io_devices("254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:1\n")
    assert v2[(254, 0)] == ({"Read": 4096, "Write": 8192}, {"Read": 1, "Write": 2})
    assert v2[(7, 1)] == ({"Read": 0, "Write": 0}, {"Read": 0, "Write": 0})
    v1 = parse_blkio_devices(
        "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 1\n254:0 Total 12288\nTotal 12288\n", "254:0 Read 1\n"
    )
    assert v1 == {(254, 0): ({"Read": 4096, "Write": 8192}, {"Read": 1, "Write": 0})}


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_is_too_odd(first: str, second: str) -> None:
    for devices in (parse_io_devices(first), parse_blkio_devices(first, second)):
        for io in devices.values():
            assert set(io.amount_bytes) == set(io.operations) == {"Read", "Write"}


def group(tmp_path: Path, version: int, *controllers: str, **files: str) -> Layout:
    (tmp_path / "g").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / "g" / name.replace("__", ".")).write_text(text)
    return Layout(f"v{version}", (Hierarchy(str(tmp_path), version, controllers),))


def test_version_2(tmp_path: Path) -> None:
    layout = group(
        tmp_path, 2, "memory", "io", "hugetlb", "cpu",
        memory__stat="anon 1\nfile_mapped 22\nkernel 33\nactive_file 44\ninactive_file 55\npgfault 6\npgmajfault 7\n",
        memory__events="low 0\nmax 9\noom 2\noom_kill 3\n",
        cpu__stat="usage_usec 5\nnr_bursts 2\nburst_usec 4\n",
        io__stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4\n",
        hugetlb__2MB__current="4194304\n", hugetlb__2MB__rsvd__current="1\n", hugetlb__2MB__events="max 5\n",
    )  # fmt: skip
    detail = read_detail(layout, "/g")
    assert (detail.memory_mapped_bytes, detail.memory_kernel_bytes, detail.oom_kills) == (22, 33, 3)
    assert (detail.memory_limit_hits, detail.page_faults_own, detail.burst_ns) == (9, 6, 4000)
    assert detail.huge_pages == {"2MB": HugePages(4194304, None, 5)}
    assert detail.devices[(8, 0)].operations == {"Read": 3, "Write": 4}


def test_version_1(tmp_path: Path) -> None:
    layout = group(
        tmp_path, 1, "memory", "hugetlb", "cpu",
        memory__stat="mapped_file 1\ntotal_mapped_file 22\ntotal_active_file 44\npgfault 6\ntotal_pgfault 60\n",
        memory__failcnt="8\n", memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        memory__kmem__usage_in_bytes="99\n", cpu__stat="nr_bursts 1\nburst_time 77\n",
        hugetlb__1GB__usage_in_bytes="0\n", hugetlb__1GB__max_usage_in_bytes="7\n", hugetlb__1GB__failcnt="2\n",
    )  # fmt: skip
    detail = read_detail(layout, "/g")
    assert (detail.memory_mapped_bytes, detail.memory_kernel_bytes, detail.oom_kills) == (22, 99, 4)
    assert (detail.memory_limit_hits, detail.page_faults_own, detail.burst_ns) == (8, 6, 77)
    assert detail.huge_pages == {"1GB": HugePages(0, 7, 2)}
    assert detail.devices == {}


def test_a_group_that_is_gone_has_nothing(tmp_path: Path) -> None:
    layout = Layout("v2", (Hierarchy(str(tmp_path), 2, ("memory", "io", "hugetlb", "cpu")),))
    assert read_detail(layout, "/gone").oom_kills is None
    assert read_processes(layout, "/gone").processes == 0


def test_processes_and_what_they_hold(tmp_path: Path) -> None:
    layout = group(tmp_path, 2, "pids", cgroup__procs=f"{os.getpid()}\n999999999\n")
    before = read_processes(layout, "/g", main_pid=os.getpid())
    with socket.socket(), open("/dev/null", encoding="ascii"):
        during = read_processes(layout, "/g", main_pid=os.getpid())
    assert (during.sockets, during.file_descriptors) == (before.sockets + 1, before.file_descriptors + 2)
    assert during.threads >= 1
    assert during.states["running"] == 1
    assert during.open_files_limit in (os.sysconf("SC_OPEN_MAX"), -1)
