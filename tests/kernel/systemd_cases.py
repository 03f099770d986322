# SPDX-License-Identifier: Apache-2.0
"""What has to hold where systemd is the machine's init; run by `PARTS=systemd scripts/test` in a virtual machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.backend.config import Resources
from tests.conftest import Directories
from tests.kernel.oci_cli_box import Runtime
from tests.support.engines import Lab, laboratory
from tests.support.patience import eventually

pytestmark = pytest.mark.root
_MIB = 1 << 20


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


def shown(unit: str, *names: str) -> dict[str, str]:
    argv = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def limits(group: str) -> tuple[str, ...]:
    files = ("memory.max", "pids.max", "cpu.weight", "cpu.max", "cpuset.cpus")
    return tuple(Path(f"/sys/fs/cgroup{group}/{file}").read_text().strip() for file in files)


RESOURCES: dict[str, Any] = {
    "memory": {"limit": 64 * _MIB},
    "pids": {"limit": 77},
    "cpu": {"shares": 2048, "quota": 50000, "period": 100000, "cpus": "0"},
    "devices": [{"allow": False, "access": "rwm"}],
}


def test_a_container_is_a_scope_of_systemd(runtime: Runtime) -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    name = runtime.new_id()
    runtime.write(
        "sleep", "1000", linux={"cgroupsPath": f"oakumt-a.slice:box:{name}", "resources": RESOURCES}
    )
    runtime("--systemd-cgroup", "create", "--bundle", runtime.bundle, name)
    unit, group = f"box-{name}.scope", f"/oakumt.slice/oakumt-a.slice/box-{name}.scope"
    state = shown(
        unit, "ActiveState", "MemoryMax", "TasksMax", "Delegate", "ControlGroup", "Slice", "AllowedCPUs"
    )
    assert state == {
        "ActiveState": "active",
        "MemoryMax": str(64 * _MIB),
        "TasksMax": "77",
        "Delegate": "yes",
        "ControlGroup": group,
        "Slice": "oakumt-a.slice",
        "AllowedCPUs": "0",
    }
    pid = runtime.state(name)["pid"]
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::{group}\n"
    wanted = limits(group)
    assert wanted == (str(64 * _MIB), "77", "174", "50000 100000", "0")
    runtime("start", name)
    # systemd sets what it knows again: it has to be the same.
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert limits(group) == wanted
    assert (
        runtime("exec", name, "sh", "-c", "echo >/dev/null && ! head -c1 /dev/mem 2>/dev/null").stdout == ""
    )
    runtime("update", "--memory", str(32 * _MIB), "--pids-limit", "55", name)
    assert shown(unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(32 * _MIB), "TasksMax": "55"}
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert limits(group)[:2] == (str(32 * _MIB), "55")
    runtime("pause", name)
    assert runtime.state(name)["status"] == "paused"
    runtime("resume", name)
    runtime("delete", "--force", name)
    assert shown(unit, "LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}
    assert not os.path.exists(f"/sys/fs/cgroup{group}")


def test_run_is_in_a_limited_scope_and_leaves_no_unit(runtime: Runtime) -> None:
    name = runtime.new_id()
    group = f"/system.slice/oakum-{name}.scope"
    files = " ".join(f"/host{group}/{file}" for file in ("memory.max", "pids.max", "cpu.max"))
    spec = runtime.write("sh", "-c", f"cat /proc/self/cgroup {files}")
    runtime.write(
        *spec["process"]["args"],
        linux={"cgroupsPath": "", "namespaces": [{"type": "mount"}], "resources": RESOURCES},
        hostname="",
        mounts=[
            *spec["mounts"],
            {"destination": "/host", "source": "/sys/fs/cgroup", "options": ["rbind", "ro"]},
        ],
    )
    done = runtime("--systemd-cgroup", "run", "--bundle", runtime.bundle, name)
    assert done.stdout.splitlines() == [f"0::{group}", str(64 * _MIB), "77", "50000 100000"]
    assert shown(f"oakum-{name}.scope", "LoadState") == {"LoadState": "not-found"}


def test_a_unit_stopped_by_systemd_ends_the_container(runtime: Runtime) -> None:
    name = runtime.new_id()
    runtime.write("sleep", "1000", linux={"cgroupsPath": f"system.slice:box:{name}"})
    runtime("--systemd-cgroup", "create", "--bundle", runtime.bundle, name)
    runtime("start", name)
    subprocess.run(["systemctl", "kill", "--signal=KILL", f"box-{name}.scope"], check=True)
    eventually(lambda: runtime.state(name)["status"] == "stopped")
    runtime("delete", name)


def test_what_systemd_refuses_is_said_and_nothing_stays(runtime: Runtime) -> None:
    first, second = runtime.new_id(), runtime.new_id()
    runtime.write("sleep", "1000", linux={"cgroupsPath": "system.slice:box:twice"})
    runtime("--systemd-cgroup", "create", "--bundle", runtime.bundle, first)
    done = runtime("--systemd-cgroup", "create", "--bundle", runtime.bundle, second, check=False)
    assert done.returncode == 1
    assert "already" in done.stderr
    assert runtime("list", "--quiet").stdout.split() == [first]
    assert shown("box-twice.scope", "ActiveState") == {"ActiveState": "active"}
    wrong = runtime.new_id()
    runtime.write("true", linux={"cgroupsPath": "/not/of/systemd"})
    done = runtime("--systemd-cgroup", "create", "--bundle", runtime.bundle, wrong, check=False)
    assert (done.returncode, "slice:prefix:name" in done.stderr) == (1, True)


@pytest.fixture
def lab(directories: Directories, tmp_path: Path) -> Iterator[Lab]:
    with laboratory(*directories, tmp_path) as made:
        yield made


@pytest.mark.parametrize("handler", ["oakum", "runc", "crun"])
def test_the_containers_of_a_pod_in_a_slice_are_scopes(lab: Lab, handler: str) -> None:
    assert lab.cri.cgroup_driver() == "systemd"
    parent = "kubepods-besteffort-podabc.slice"
    group = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podabc.slice"
    with lab.pod("sliced", handler=handler, cgroup_parent=parent) as pod:
        limited = Resources(memory_limit_bytes=64 * _MIB, cpu_shares=2048)
        container = lab.started(pod, resources=limited)
        unit = f"oakum-{container}.scope"
        assert shown(unit, "ActiveState", "MemoryMax", "Slice", "ControlGroup") == {
            "ActiveState": "active",
            "MemoryMax": str(64 * _MIB),
            "Slice": parent,
            "ControlGroup": f"{group}/{unit}",
        }
        lab.cri.update_container_resources(container, Resources(memory_limit_bytes=32 * _MIB))
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert Path(f"/sys/fs/cgroup{group}/{unit}/memory.max").read_text() == f"{32 * _MIB}\n"
        assert lab.run(container, "echo", "in") == "in\n"
        lab.cri.stop_container(container, timeout_s=0)
        lab.cri.remove_container(container)
        assert shown(unit, "LoadState") == {"LoadState": "not-found"}
        done = lab.started(pod, "short", "exit 3")
        assert lab.cri.wait(done, timeout_s=60).exit_code == 3
