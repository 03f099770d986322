# SPDX-License-Identifier: Apache-2.0
"""How a container's process is scheduled, placed and presented, its clocks, its devices and the agent of its filter."""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oakum.errors import InvalidArgument, NotFound, OakumError, SystemFailure
from tests.kernel.oci_box import NAMESPACES, Box, Running
from tests.kernel.oci_cli_box import Runtime

pytestmark = pytest.mark.root
_WITH_TIME = [{"type": kind} for kind in (*NAMESPACES, "time")]
_STAT_POLICY, _STAT_NICE = 40, 18  # fields of /proc/PID/stat, counted from 0


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(str(tmp_path))


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


def test_the_scheduler_and_the_io_priority(box: Box) -> None:
    spec = box.spec(
        "sleep",
        "60",
        scheduler={"policy": "SCHED_BATCH", "nice": 7},
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6},
    )
    with Running(box, spec) as running:
        stat = Path(f"/proc/{running.pid}/stat").read_text().rpartition(") ")[2].split()
        assert (stat[_STAT_POLICY - 2], stat[_STAT_NICE - 2]) == ("3", "7")
        libc = ctypes.CDLL(None, use_errno=True)
        number = {"x86_64": 252, "aarch64": 31}[os.uname().machine]  # ioprio_get
        assert libc.syscall(number, 1, running.pid) == 2 << 13 | 6
        # An exec has the values of its own process object.
        assert running.exec("sh", "-c", "cut -d' ' -f19 /proc/self/stat").text == "7\n"
        plain = running.exec("sh", "-c", "cut -d' ' -f19 /proc/self/stat", process={"scheduler": {}})
        assert plain.text == f"{os.nice(0)}\n"


@pytest.mark.parametrize(
    "scheduler",
    [
        {"nice": 1},
        {"policy": "SCHED_OTHER", "priority": 3},
        {"policy": "SCHED_FIFO", "priority": 100},
        {"policy": "SCHED_RR", "deadline": 5},
    ],
)
def test_a_scheduler_that_cannot_be(box: Box, scheduler: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"\$\.process\.scheduler"):
        box.run(box.spec("true", scheduler=scheduler))


def test_what_the_kernel_refuses_is_named(box: Box) -> None:
    # A deadline is longer than the time it is for: every kernel refuses the opposite.
    wrong = {"policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 5_000_000, "period": 20_000_000}
    with pytest.raises(SystemFailure, match=r"process\.scheduler"):
        box.run(box.spec("true", scheduler=wrong))


def test_a_personality_is_the_containers_and_its_execs(box: Box) -> None:
    spec = box.spec("sleep", "600", linux={"personality": {"domain": "LINUX32"}})
    with Running(box, spec) as running:
        assert Path(f"/proc/{running.pid}/personality").read_text().strip() == "00000008"
        assert running.exec("uname", "-m", linux=spec["linux"]).text.strip() != os.uname().machine


def test_a_memory_policy_is_the_containers(box: Box) -> None:
    policy = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    spec = box.spec("cat", "/proc/self/numa_maps", linux={"memoryPolicy": policy})
    if not os.path.exists("/proc/self/numa_maps"):
        # Without NUMA in the kernel the call is not there: that has to be said, and not passed over.
        with pytest.raises(SystemFailure, match=r"linux\.memoryPolicy"):
            box.run(spec)
        return
    assert "bind=static:0" in box.run(spec).text


@pytest.mark.parametrize(
    "policy",
    [
        {"mode": "MPOL_LOCAL", "nodes": "0"},
        {"mode": "MPOL_BIND"},
        {"mode": "MPOL_BIND", "nodes": "3-1"},
        {"mode": "MPOL_BIND", "nodes": "0-99999999"},
    ],
)
def test_a_memory_policy_that_cannot_be(box: Box, policy: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"\$\.linux\.memoryPolicy\.nodes"):
        box.run(box.spec("true", linux={"memoryPolicy": policy}))


def test_execs_run_on_the_cpus_that_the_spec_wants(box: Box) -> None:
    with Running(box, box.spec("sleep", "600")) as running:
        lone = {"execCPUAffinity": {"initial": "0", "final": "0"}}
        seen = running.exec("grep", "Cpus_allowed_list", "/proc/self/status", process=lone).text
        assert seen.split() == ["Cpus_allowed_list:", "0"]
        with pytest.raises(SystemFailure, match=r"execCPUAffinity\.final"):
            running.exec("true", process={"execCPUAffinity": {"final": "4000"}})


def test_the_clocks_of_a_time_namespace(box: Box) -> None:
    offsets = {"boottime": {"secs": 100_000_000, "nanosecs": 5}, "monotonic": {"secs": 3}}
    spec = box.spec("sleep", "600", linux={"namespaces": _WITH_TIME, "timeOffsets": offsets})
    with Running(box, spec) as running:
        uptime = running.exec("cut", "-d.", "-f1", "/proc/uptime").text
        assert int(uptime) >= 100_000_000
        assert os.readlink(f"/proc/{running.pid}/ns/time") != os.readlink("/proc/self/ns/time")
        again = {"namespaces": [*spec["linux"]["namespaces"][:-1]]}
        again["namespaces"].append({"type": "time", "path": f"/proc/{running.pid}/ns/time"})
        assert int(box.output("cut", "-d.", "-f1", "/proc/uptime", linux=again)) >= 100_000_000


def test_the_clocks_in_a_user_namespace(box: Box) -> None:
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 1000}]
    os.chmod(box.bundle, 0o755)
    linux = {
        "namespaces": [*_WITH_TIME, {"type": "user"}],
        "uidMappings": mapping,
        "gidMappings": mapping,
        "timeOffsets": {"boottime": {"secs": 50_000_000}},
    }
    assert int(box.output("cut", "-d.", "-f1", "/proc/uptime", linux=linux)) >= 50_000_000
    assert time.clock_gettime(time.CLOCK_BOOTTIME) < 50_000_000


def test_offsets_without_a_namespace_for_them(box: Box) -> None:
    with pytest.raises(InvalidArgument, match=r"\$\.linux\.timeOffsets"):
        box.run(box.spec("true", linux={"timeOffsets": {"boottime": {"secs": 1}}}))


@pytest.fixture
def device() -> Iterator[str]:
    name = f"oakt{os.getpid() % 100000}"
    ip = ["ip", "link", "add", name, "mtu", "1400", "type", "veth", "peer", "name", f"{name}p"]
    subprocess.run(ip, check=True)
    subprocess.run(["ip", "address", "add", "192.0.2.7/24", "dev", name], check=True)
    yield name
    # Gone with the container's namespace, which the kernel takes down when it likes, or still here.
    subprocess.run(["ip", "link", "delete", f"{name}p"], check=False, capture_output=True)


def test_a_device_of_the_host_becomes_the_containers(box: Box, device: str) -> None:
    script = "cat /sys/class/net/eth7/mtu; ip address show eth7"
    seen = box.shell(script, linux={"netDevices": {device: {"name": "eth7"}}})
    assert seen.startswith("1400\n")
    assert "inet 192.0.2.7/24" in seen
    assert "UP" in seen
    assert not os.path.exists(f"/sys/class/net/{device}")


def test_a_device_that_is_not_there(box: Box) -> None:
    with pytest.raises(NotFound, match=r"netDevices\.nosuch0"):
        box.run(box.spec("true", linux={"netDevices": {"nosuch0": {}}}))
    own = [{"type": kind} for kind in NAMESPACES if kind != "network"]
    with pytest.raises(InvalidArgument, match=r"\$\.linux\.netDevices"):
        box.run(box.spec("true", linux={"namespaces": own, "netDevices": {"lo": {}}}))


class Agent:
    """What listens at linux.seccomp.listenerPath, and answers each call with EXDEV."""

    _RECV, _SEND = 0xC0502100, 0xC0182101

    def __init__(self, path: str) -> None:
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(path)
        self._listening.listen()

    def accept(self) -> tuple[dict[str, Any], int]:
        self._listening.settimeout(60)
        connection, _ = self._listening.accept()
        with connection:
            connection.settimeout(60)
            body, fds, _, _ = socket.recv_fds(connection, 65536, 1)
        return json.loads(body), fds[0]

    def answer(self, fd: int) -> int:
        """Answer one call; the process id it came from."""
        request = array.array("B", bytes(80))
        fcntl.ioctl(fd, self._RECV, request)
        answer = request.tobytes()[:8] + (0).to_bytes(8, "little") + (-18).to_bytes(4, "little", signed=True)
        fcntl.ioctl(fd, self._SEND, array.array("B", answer + bytes(4)))
        return int.from_bytes(request.tobytes()[8:12], "little")

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(str(tmp_path / "agent"))
    yield made
    made.close()


def _notify(tmp_path: Path, *names: str, **more: Any) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(tmp_path / "agent"),
        "listenerMetadata": "who=box",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
        **more,
    }


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_an_agent_answers_the_calls_of_container_and_exec(
    runtime: Runtime, agent: Agent, tmp_path: Path, no_new_privs: bool
) -> None:
    script = "mkdir /made; echo $?; sleep 600"
    flags = ["SECCOMP_FILTER_FLAG_LOG"]
    spec = runtime.box.spec("sh", "-c", script, noNewPrivileges=no_new_privs)
    runtime.write(
        "sh",
        "-c",
        script,
        process=spec["process"],
        linux={"seccomp": _notify(tmp_path, "mkdir", "mkdirat", flags=flags)},
    )
    name = runtime.new_id()
    runtime("create", "--bundle", runtime.bundle, name)
    runtime("start", name)
    body, fd = agent.accept()
    state = runtime.state(name)
    assert body["fds"] == ["seccompFd"]
    assert (body["metadata"], body["pid"]) == ("who=box", state["pid"])
    assert (body["state"]["id"], body["state"]["pid"]) == (name, state["pid"])
    assert agent.answer(fd) > 0
    os.close(fd)
    with subprocess.Popen(
        runtime.argv("exec", name, "mkdir", "/other"), stderr=subprocess.PIPE, text=True
    ) as running:
        body, fd = agent.accept()
        assert body["pid"] != state["pid"]
        assert (body["state"]["pid"], body["state"]["status"]) == (state["pid"], "running")
        agent.answer(fd)
        os.close(fd)
        assert "cross-device" in (running.communicate(timeout=60)[1]).lower()
    assert running.returncode == 1


def test_filters_that_nobody_could_answer(runtime: Runtime, tmp_path: Path) -> None:
    for seccomp, said in (
        (_notify(tmp_path, "mkdir"), "agent"),  # nobody listens
        (_notify(tmp_path, "sendmsg"), "sendmsg"),
        (_notify(tmp_path, "mkdir", defaultAction="SCMP_ACT_NOTIFY"), "defaultAction"),
        (_notify(tmp_path, "mkdir", listenerPath=""), "SCMP_ACT_NOTIFY"),
    ):
        runtime.write("true", linux={"seccomp": seccomp})
        done = runtime("run", "--bundle", runtime.bundle, runtime.new_id(), check=False)
        assert done.returncode == 1
        assert said in done.stderr
    assert runtime("list", "--quiet").stdout == ""


def test_the_open_files_of_this_process_are_as_before(box: Box) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OakumError):
        box.run(box.spec("true", linux={"netDevices": {"nosuch0": {}}}))
    assert set(os.listdir("/proc/self/fd")) == before
