# SPDX-License-Identifier: Apache-2.0
"""Control groups on the running kernel, whichever versions it has: limits that hold, freezing, killing, counting."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import OakumError, SystemFailure, Unimplemented
from oakum.oci.cgroups import Cgroup, detect_layout
from oakum.oci.cgroups.stats import read_stats
from tests.kernel.oci_box import Box, Running
from tests.support.patience import eventually

pytestmark = [pytest.mark.root, pytest.mark.cgroup]


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(detect_layout(), f"/oakum-test-group-{os.getpid()}/a/b")
    made.create()
    yield made
    Cgroup(made.layout, f"/oakum-test-group-{os.getpid()}").remove()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(str(tmp_path))


def _value(group: Cgroup, v1: tuple[str, str], v2: str) -> str:
    controller, file = v1
    tree = group.layout.of(controller)
    assert tree is not None
    return Path(group.directory(tree), file if tree.version == 1 else v2).read_text().strip()


def test_making_is_idempotent_and_removing_too(group: Cgroup) -> None:
    group.create()
    assert group.exists()
    group.remove()
    assert not group.exists()
    group.remove()


def test_limits_are_written_and_can_be_changed_up_and_down(group: Cgroup) -> None:
    for limit in (64 << 20, 128 << 20, 32 << 20):
        assert group.apply({"memory": {"limit": limit, "swap": limit}}) == []
        assert _value(group, ("memory", "memory.limit_in_bytes"), "memory.max") == str(limit)
    group.apply({"pids": {"limit": 7}, "cpu": {"shares": 512, "quota": 30000, "period": 60000}})
    assert _value(group, ("pids", "pids.max"), "pids.max") == "7"
    if group.layout.mode == "v2":
        assert _value(group, ("cpu", ""), "cpu.max") == "30000 60000"
        assert _value(group, ("cpu", ""), "cpu.weight") == "59"
    else:
        assert _value(group, ("cpu", "cpu.shares"), "") == "512"
        assert _value(group, ("cpu", "cpu.cfs_quota_us"), "") == "30000"
    group.apply({"cpu": {"quota": -1}, "pids": {"limit": -1}})
    assert _value(group, ("pids", "pids.max"), "pids.max") == "max"


def test_a_cpuset_holds(box: Box) -> None:
    spec = box.spec(
        "grep",
        "Cpus_allowed_list",
        "/proc/self/status",
        linux={"resources": {"cpu": {"cpus": "0", "mems": "0"}}},
    )
    assert box.run(spec).text.split()[-1] == "0"


def test_a_value_the_kernel_refuses_names_file_and_group(group: Cgroup) -> None:
    with pytest.raises(SystemFailure, match=r"cpuset\.cpus.*oakum-test-group"):
        group.apply({"cpu": {"cpus": "4000-4001"}})


def test_a_controller_the_host_lacks_is_said(group: Cgroup) -> None:
    bare = Cgroup(
        group.layout._replace(
            hierarchies=tuple(t for t in group.layout.hierarchies if "pids" not in t.controllers)
        ),
        group.path,
    )
    with pytest.raises((Unimplemented, OakumError)):
        bare.apply({"pids": {"limit": 5}})


def test_the_process_limit_holds(box: Box) -> None:
    spec = box.spec(
        "sh",
        "-c",
        "(sleep 0; echo one) ; for i in 1 2 3 4 5 6; do sleep 1 & done; wait",
        linux={"resources": {"pids": {"limit": 4}}},
    )
    assert "fork" in box.run(spec).text


def test_memory_limit_kills_and_is_counted(box: Box) -> None:
    limit = 24 << 20
    spec = box.spec("sleep", "100", linux={"resources": {"memory": {"limit": limit, "swap": limit}}})
    with Running(box, spec) as container:
        assert container.cgroup.oom_kills() == 0
        result = container.exec("sh", "-c", "head -c 100m /dev/zero | tail -c 90m | wc -c")
        assert result.text.strip() != str(90 << 20)
        eventually(lambda: container.cgroup.oom_kills() > 0)


def test_a_container_with_a_tiny_memory_limit_starts(box: Box) -> None:
    limit = 2 << 20
    spec = box.spec("echo", "fits", linux={"resources": {"memory": {"limit": limit, "swap": limit}}})
    assert box.run(spec).text == "fits\n"


def test_freezing_stops_and_thawing_goes_on(box: Box) -> None:
    with Running(box, box.spec("sh", "-c", "while :; do :; done")) as container:

        def used() -> int:
            return read_stats(box.layout, container.cgroup.path).cpu_usage_ns or 0

        before = used()
        eventually(lambda: used() > before)
        container.cgroup.freeze()
        container.cgroup.freeze()
        assert container.cgroup.frozen()
        frozen_at = used()
        time.sleep(0.1)
        assert used() - frozen_at < 50_000_000
        container.cgroup.thaw()
        assert not container.cgroup.frozen()
        eventually(lambda: used() > frozen_at + 10_000_000)


@pytest.mark.parametrize("frozen", [False, True])
def test_killing_takes_all_that_fork_and_escape_the_session(box: Box, frozen: bool) -> None:
    script = "for i in 1 2 3; do setsid sh -c 'sleep 100 & sleep 100' & done; sleep 100"
    spec = box.spec("sh", "-c", script)
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    with Running(box, spec) as container:
        eventually(lambda: len(container.cgroup.processes()) >= 7)
        if frozen:
            container.cgroup.freeze()
        container.cgroup.kill_all()
        os.waitid(os.P_PID, container.pid, os.WEXITED | os.WNOWAIT)
        eventually(lambda: all(_gone(pid) for pid in container.cgroup.processes()))


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_device_rules_hold_and_can_be_changed(box: Box) -> None:
    deny = {"allow": False, "access": "rwm"}
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    zero_read = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}
    sets = {kind: ["CAP_MKNOD", "CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")}
    make = {"allow": True, "type": "c", "access": "m"}
    script = (
        "echo x > /dev/null && echo null; head -c1 /dev/zero > /dev/null && echo read; "
        "(echo x > /dev/zero) 2>/dev/null || echo no-write; (head -c1 /dev/full > /dev/null) 2>/dev/null || echo no-full"
    )
    spec = box.spec(
        "sleep", "100", linux={"resources": {"devices": [deny, make, null, zero_read]}}, capabilities=sets
    )
    with Running(box, spec) as container:
        assert container.exec("sh", "-c", script).text.split() == ["null", "read", "no-write", "no-full"]
        rules: Any = [deny, make, null, {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"}]
        container.cgroup.apply({"devices": rules})
        assert container.exec("sh", "-c", script).text.split() == ["null", "read", "no-full"]


def test_statistics_of_a_working_container(box: Box) -> None:
    script = "head -c 8m /dev/urandom > /dev/shm/f; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100; true"
    spec = box.spec(
        "sh", "-c", script, linux={"resources": {"memory": {"limit": 256 << 20}, "pids": {"limit": 50}}}
    )
    with Running(box, spec) as container:
        eventually(lambda: "sleep" in container.exec("ps", "-o", "comm").text.split())
        stats = read_stats(box.layout, container.cgroup.path)
        assert stats.cpu_usage_ns is not None
        assert stats.cpu_usage_ns > 1_000_000
        assert stats.memory_usage_bytes is not None
        assert 8 << 20 <= stats.memory_usage_bytes < 256 << 20
        assert stats.memory_working_set_bytes is not None
        assert 8 << 20 <= stats.memory_working_set_bytes <= stats.memory_usage_bytes
        assert stats.memory_limit_bytes == 256 << 20
        assert (stats.pids, stats.pids_limit) == (2, 50)
        assert stats.page_faults is not None
        assert stats.page_faults > 0


def test_statistics_of_a_group_that_is_gone_are_unknown() -> None:
    stats = read_stats(detect_layout(), f"/oakum-test-never-{os.getpid()}")
    assert stats.cpu_usage_ns is None
    assert stats.memory_usage_bytes is None
    assert stats.pids is None


def test_an_exec_is_accounted_to_the_container(box: Box) -> None:
    with Running(box, box.spec("sleep", "100")) as container:
        result = container.exec("sh", "-c", "cat /proc/self/cgroup; cat /proc/1/cgroup")
        lines = result.text.splitlines()
        half = len(lines) // 2
        assert lines[:half] == lines[half:]


def test_exec_into_a_container_that_made_groups_of_its_own(box: Box) -> None:
    """On v2 a group with controllers on for its children takes no process itself: exec goes where process 1 is."""
    if box.layout.mode != "v2":
        # v1 groups take processes at every level; the plain case is all there is
        with Running(box, box.spec("sleep", "100")) as container:
            for tree in box.layout.hierarchies:
                os.mkdir(container.cgroup.directory(tree) + "/child")
            assert container.exec("echo", "in").text == "in\n"
        return
    with Running(box, box.spec("sleep", "100")) as container:
        tree = box.layout.unified
        assert tree is not None
        directory = container.cgroup.directory(tree)
        os.mkdir(f"{directory}/child")
        Path(directory, "child/cgroup.procs").write_text(str(container.pid))
        Path(directory, "cgroup.subtree_control").write_text("+pids +memory")
        assert container.exec("echo", "in").text == "in\n"
