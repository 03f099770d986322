# SPDX-License-Identifier: Apache-2.0
"""The statistics of `oakum oci events`, from the files of both versions of control groups."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from oakum.cli.oci.statistics import blkio_entries, collect, io_entries, numbers
from oakum.oci.cgroups.layout import Hierarchy, Layout


def write(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def test_version_1(tmp_path: Path) -> None:
    trees = ("cpuacct", "memory", "blkio", "cpuset", "hugetlb", "pids")
    layout = Layout("v1", tuple(Hierarchy(str(tmp_path / name), 1, (name,)) for name in trees))
    for tree, files in {
        "cpuacct": {"cpuacct.usage": "30\n", "cpuacct.usage_all": "cpu user system\n0 10 5\n1 12 3\n"},
        "memory": {
            "memory.stat": "cache 4096\ntotal_cache 4096\n",
            **{f"memory.{kind}limit_in_bytes": "1000\n" for kind in ("", "memsw.", "kmem.", "kmem.tcp.")},
            "memory.usage_in_bytes": "500\n",
            "memory.failcnt": "3\n",
            "memory.memsw.usage_in_bytes": "700\n",
        },
        "blkio": {
            "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 512\nTotal 4608\n",
            "blkio.throttle.io_serviced_recursive": "8:0 Read 1\nTotal 1\n",
        },
        "cpuset": {"cpuset.cpus": "0-2,5\n", "cpuset.mems": "0\n", "cpuset.sched_relax_domain_level": "-1\n"},
        "hugetlb": {"hugetlb.2MB.usage_in_bytes": "0\n", "hugetlb.2MB.failcnt": "2\n"},
        "pids": {"pids.current": "4\n", "pids.max": "max\n"},
    }.items():
        write(tmp_path / tree / "box", files)
    data = collect(layout, "/box")
    assert data["cpu"]["usage"]["percpu"] == [15, 15]
    assert data["cpu"]["usage"]["percpu_kernel"] == [5, 3]
    assert data["memory"]["cache"] == 4096
    assert data["memory"]["usage"] == {"limit": 1000, "usage": 500, "failcnt": 3}
    assert data["memory"]["swap"]["usage"] == 700
    assert data["memory"]["raw"] == {"cache": 4096, "total_cache": 4096}
    assert {"kernel", "kernelTCP"} <= data["memory"].keys()
    assert data["blkio"] == {
        "ioServiceBytesRecursive": [
            {"major": 8, "minor": 0, "op": "Read", "value": 4096},
            {"major": 8, "minor": 0, "op": "Write", "value": 512},
        ],
        "ioServicedRecursive": [{"major": 8, "minor": 0, "op": "Read", "value": 1}],
    }
    assert data["cpuset"] == {"cpus": [0, 1, 2, 5], "mems": [0], "sched_relax_domain_level": -1}
    assert data["hugetlb"] == {"2MB": {"usage": 0, "failcnt": 2}}
    assert data["pids"] == {"current": 4}
    assert (data["intel_rdt"], data["network_interfaces"]) == ({}, None)


def test_version_2(tmp_path: Path) -> None:
    layout = Layout(
        "v2", (Hierarchy(str(tmp_path), 2, ("cpu", "memory", "io", "pids", "hugetlb", "cpuset")),)
    )
    pressure = (
        "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    files = {
        "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\n",
        "memory.current": "500\n",
        "memory.max": "1000\n",
        "memory.swap.current": "20\n",
        "memory.swap.max": "24\n",
        "memory.stat": "anon 100\nfile 300\n",
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        "io.pressure": pressure,
        "hugetlb.2MB.current": "0\n",
        "hugetlb.2MB.events": "max 6\n",
        "pids.current": "1\n",
        "pids.max": "9\n",
    }
    write(tmp_path / "box", files)
    data = collect(layout, "/box")
    assert data["cpu"]["usage"] == {"total": 5000, "kernel": 2000, "user": 3000}
    assert data["memory"]["swap"] == {"limit": 1024, "usage": 520, "failcnt": 0}
    assert data["memory"]["raw"] == {"anon": 100, "file": 300}
    assert data["blkio"]["psi"]["some"] == {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 7}
    assert [entry["value"] for entry in data["blkio"]["ioServicedRecursive"]] == [3, 4]
    assert data["hugetlb"] == {"2MB": {"usage": 0, "failcnt": 6}}
    assert data["pids"] == {"current": 1, "limit": 9}
    assert data["cpuset"] == {}


def test_a_group_that_is_gone_has_nothing(tmp_path: Path) -> None:
    layout = Layout("v2", (Hierarchy(str(tmp_path), 2, ("cpu", "memory", "io")),))
    assert collect(layout, "/gone")["memory"]["usage"]["limit"] == (1 << 64) - 1


@given(st.text("0123456789:-,. =ReadTotlrbyes\n"))
def test_any_text_is_read_or_passed_over(text: str) -> None:
    blkio_entries(text)
    io_entries(text)
    assert all(n >= 0 for n in numbers(text[:6]))
