# SPDX-License-Identifier: Apache-2.0
"""Containers under a shim, seen from inside and from the host: life, logs, exec, stop, limits, namespaces."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from oakum.errors import (
    AlreadyExists,
    CommandNotRunnable,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    OakumError,
)
from oakum.model.exits import ExitRecord
from oakum.shim import exits, frames
from oakum.shim.client import ExecRequest
from tests.conftest import Directories
from tests.kernel.shim_box import Box, alive, read_log
from tests.support.patience import eventually, patient

pytestmark = [pytest.mark.root, pytest.mark.cgroup]


@pytest.fixture
def box(directories: Directories, rootfs: str) -> Iterator[Box]:
    made = Box(
        directories.root,
        directories.state,
        rootfs,
        hostname="podhost",
        sysctls={"net.ipv4.ip_unprivileged_port_start": "80"},
    )
    yield made
    made.close()
    assert made.left() == []


def read_frames(sock: socket.socket) -> list[tuple[int, bytes]]:
    sock.settimeout(60)
    decoder, found = frames.Decoder(), []
    while data := sock.recv(65536):
        found += decoder.feed(data)
    sock.close()
    return found


def joined(found: list[tuple[int, bytes]], kind: int) -> bytes:
    return b"".join(payload for k, payload in found if k == kind)


def test_a_container_runs_logs_and_its_end_is_recorded(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    created = box.sh("c1", "echo out; echo err >&2; printf unfinished; exit 3", log_path=log)
    assert created.started_at_ns > 0
    record = box.shim.wait("c1", 60)
    assert (record.exit_code, record.reason, record.signal) == (3, "Error", 0)
    assert created.started_at_ns == record.started_at_ns < record.finished_at_ns
    assert exits.read(box.bundle("c1")) == record
    with open(log, encoding="utf-8") as file:
        found = sorted(line.rstrip("\n").split(" ", 1)[1] for line in file)
    assert found == ["stderr F err", "stdout F out", "stdout P unfinished"]
    box.shim.delete("c1")
    box.shim.delete("c1")
    assert box.shim.containers() == []
    with pytest.raises(NotFound):
        box.shim.wait("c1", 60)


def test_the_pods_namespaces_host_name_sysctls_and_shm(box: Box) -> None:
    box.sh("a", "sleep 100")
    box.sh("b", "sleep 100")
    code, text = box.execute(
        "a", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip -o addr show lo"
    )
    assert code == 0
    assert text.split("\n")[:2] == ["podhost", "80"]
    assert "127.0.0.1/8" in text
    for kind in ("net", "ipc", "uts"):
        pin = os.stat(f"{box.directory}/ns/{kind}").st_ino
        assert box.execute("a", f"readlink /proc/self/ns/{kind}")[1].strip().endswith(f"[{pin}]")
        assert box.execute("b", f"readlink /proc/self/ns/{kind}")[1].strip().endswith(f"[{pin}]")
        assert os.stat(f"/proc/self/ns/{kind}").st_ino != pin
    size = os.statvfs(f"{box.directory}/shm")
    assert size.f_blocks * size.f_frsize == 64 << 20


def test_a_created_container_waits_and_can_be_attached_to_before_it_starts(box: Box) -> None:
    created = box.shim.create(box.request("c1", ["sh", "-c", "echo first words; exit 4"]))
    assert (created.uid, created.started_at_ns) == (0, 0)
    assert [s.state for s in box.shim.containers()] == ["created"]
    stream = box.connect().attach("c1")
    box.shim.start("c1")
    with pytest.raises(FailedPrecondition):
        box.shim.start("c1")
    found = read_frames(stream)
    assert joined(found, frames.STDOUT) == b"first words\n"
    assert ExitRecord.from_dict(json.loads(found[-1][1])).exit_code == 4
    with pytest.raises(AlreadyExists):
        box.shim.create(box.request("c1", ["true"]))


def test_a_created_container_holds_none_of_the_shims_descriptors(box: Box) -> None:
    other = box.connect()
    created = box.shim.create(box.request("c1", ["true"]))
    targets = [os.readlink(f"/proc/{created.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{created.pid}/fd")]
    assert not [t for t in targets if "shim.pid" in t or "eventpoll" in t], targets
    other.close()


def test_commands_that_cannot_run(box: Box) -> None:
    with pytest.raises(CommandNotRunnable) as missing:
        box.run("c1", "no-such-command")
    assert missing.value.exit_code == 127
    with pytest.raises(OakumError):
        box.run("c2", "/etc/passwd")
    box.sh("c3", "sleep 100")
    with pytest.raises(CommandNotRunnable):
        box.start_exec("c3", "no-such-command")
    assert [s.container_id for s in box.shim.containers() if s.state != "exited"] == ["c3"]


def test_stop_is_a_signal_then_a_kill_of_all_and_a_second_stop_joins(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    box.sh("polite", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", log_path=log)
    eventually(lambda: read_log(log) == "ready\n", "the trap is set")
    assert box.shim.stop("polite", 15, 10).exit_code == 7
    assert box.shim.stop("polite", 15, 10).exit_code == 7
    box.sh("deaf", "trap '' TERM; sleep 1000 & sleep 1000 & wait; sleep 1000")
    began = time.monotonic()
    records: list[ExitRecord] = []

    def stop(grace_s: float) -> None:
        with box.connect() as client:
            records.append(client.stop("deaf", 15, grace_s))

    first = threading.Thread(target=stop, args=(300,))
    first.start()
    time.sleep(0.1)
    stop(0.3)
    first.join(60)
    assert [r.exit_code for r in records] == [137, 137]
    assert 0.3 < time.monotonic() - began < patient(5)


def test_signals_pause_and_resume(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    box.sh("c1", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done", log_path=log)
    eventually(lambda: read_log(log) == "ready\n", "the trap is set")
    box.shim.pause("c1")
    assert box.shim.containers()[0].state == "paused"
    with pytest.raises(FailedPrecondition, match="resume it first"):
        box.start_exec("c1", "true")
    box.shim.kill("c1", 10)
    with pytest.raises(DeadlineExceeded):
        box.shim.wait("c1", 0.2)
    box.shim.resume("c1")
    assert box.shim.wait("c1", 60).exit_code == 9
    box.sh("c2", "sleep 100")
    box.shim.pause("c2")
    assert box.shim.stop("c2", 15, 0.1).exit_code == 137


def test_exec_has_the_containers_environment_and_its_own_output(box: Box) -> None:
    box.sh("c1", "sleep 100")
    code, text = box.execute("c1", "echo $FROM; id -u; exit 5", user="web")
    assert (code, text) == (5, "container\n33\n")
    with pytest.raises(OakumError):
        box.execute("c1", "true", user="nosuchuser")


def test_killing_an_exec_kills_what_it_started_also_after_a_double_fork(box: Box) -> None:
    box.sh("c1", "sleep 100")
    running = box.start_exec("c1", "sh", "-c", "(sleep 301 &) ; sleep 302 & wait")
    eventually(lambda: "sleep 301" in box.execute("c1", "ps")[1], "the grandchild runs")
    with pytest.raises(DeadlineExceeded):
        running.wait(0.1)
    running.kill()
    assert running.wait(60).exit_code == 137
    eventually(lambda: "sleep 30" not in box.execute("c1", "ps")[1], "the whole tree is dead")
    assert box.shim.containers()[0].state == "running"


def test_an_exec_that_ended_can_still_have_its_background_processes_killed(box: Box) -> None:
    box.sh("c1", "sleep 100")
    running = box.start_exec("c1", "sh", "-c", "(sleep 303 &)")
    assert running.wait(60).exit_code == 0
    running.kill()
    eventually(lambda: "sleep 303" not in box.execute("c1", "ps")[1], "the background process is dead")


def test_exec_on_a_terminal_of_the_wanted_size(box: Box) -> None:
    box.sh("c1", "sleep 100")
    running = box.shim.exec("c1", ExecRequest({"args": ["stty", "size"]}, tty=True, rows=33, columns=77))
    assert running.console_fd is not None
    assert os.read(running.console_fd.fileno(), 100).strip() == b"33 77"
    assert running.wait(60).exit_code == 0
    running.close()


def test_a_container_on_a_terminal_survives_detach_and_is_resized(box: Box) -> None:
    box.sh("c1", "while read line; do echo got $line; stty size; done", tty=True, stdin=True, stdin_once=True)
    first = box.connect().attach("c1", stdin=True)
    first.sendall(frames.encode(frames.RESIZE, b'{"rows": 20, "columns": 60}'))
    first.sendall(frames.encode(frames.STDIN, b"one\n"))
    seen = b""
    decoder = frames.Decoder()
    first.settimeout(60)
    while b"20 60" not in seen:
        seen += joined(decoder.feed(first.recv(1000)), frames.STDOUT)
    assert b"got one" in seen
    first.close()
    second = box.connect().attach("c1", stdin=True)
    second.settimeout(60)
    second.sendall(frames.encode(frames.STDIN, b"two\n"))
    decoder, seen = frames.Decoder(), b""
    while b"got two" not in seen:
        seen += joined(decoder.feed(second.recv(1000)), frames.STDOUT)
    box.shim.resize("c1", 50, 132)
    second.sendall(frames.encode(frames.STDIN, b"three\n"))
    while b"50 132" not in seen:
        seen += joined(decoder.feed(second.recv(1000)), frames.STDOUT)
    second.close()


def test_stdin_goes_through_and_ends_with_the_first_client(box: Box) -> None:
    box.shim.create(box.request("c1", ["cat"], stdin=True, stdin_once=True))
    stream = box.connect().attach("c1", stdin=True, backpressure=True)
    box.shim.start("c1")
    data = os.urandom(300_000)
    sender = threading.Thread(
        target=lambda: (
            [
                stream.sendall(frames.encode(frames.STDIN, data[at : at + 65536]))
                for at in range(0, len(data), 65536)
            ],
            stream.sendall(frames.encode(frames.CLOSE_STDIN)),
        )
    )
    sender.start()
    found = read_frames(stream)
    sender.join(60)
    assert joined(found, frames.STDOUT) == data
    assert found[-1][0] == frames.EXIT


def test_without_stdin_the_container_reads_nothing_and_close_stdin_ends_one_with_it(box: Box) -> None:
    box.sh("c1", "cat")
    assert box.shim.wait("c1", 60).exit_code == 0
    box.sh("c2", "cat; exit 8", stdin=True)
    with pytest.raises(DeadlineExceeded):
        box.shim.wait("c2", 0.2)
    box.shim.close_stdin("c2")
    assert box.shim.wait("c2", 60).exit_code == 8


def test_memory_limit_ends_as_oom_killed(box: Box) -> None:
    box.sh(
        "c1",
        "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
        resources={"memory": {"limit": 24 << 20}},
    )
    record = box.shim.wait("c1", 60)
    assert record.exit_code == 137
    assert record.oom_killed
    assert record.reason == "OOMKilled"


def test_limits_change_while_it_runs(box: Box) -> None:
    box.sh("c1", "sleep 100", resources={"pids": {"limit": 20}})
    box.shim.update("c1", {"pids": {"limit": 1}})
    assert "can't fork" in box.execute("c1", "ls; ls")[1]
    box.shim.update("c1", {"pids": {"limit": 50}})
    assert box.execute("c1", "echo back")[1] == "back\n"


def test_log_rotation_in_the_middle_of_output(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    box.sh("c1", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done", log_path=log)
    rotated: list[str] = []
    while box.shim.containers()[0].state == "running" and len(rotated) < 20:
        old = f"{log}.{len(rotated)}"
        os.rename(log, old)
        rotated.append(old)
        try:
            box.shim.reopen_log("c1")
        except FailedPrecondition:
            break
    box.shim.wait("c1", 60)
    text = "".join(read_log(path) for path in [*rotated, log] if os.path.exists(path))
    assert text == "".join(f"line {n}\n" for n in range(3000))


def test_a_pod_that_shares_process_ids(directories: Directories, rootfs: str) -> None:
    box = Box(directories.root, directories.state, rootfs, create_namespaces=("network", "ipc", "uts", "pid"))
    shared = ["mount", "ipc", "uts", "network", {"type": "pid", "path": f"{box.directory}/ns/pid"}]
    namespaces = [n if isinstance(n, dict) else {"type": n} for n in shared]
    box.sh("a", "(sleep 0.2 &); sleep 304", namespaces=namespaces)
    box.sh("b", "sleep 305", namespaces=namespaces)
    listing = box.execute("b", "ps -o pid,args")[1]
    assert "sleep 304" in listing
    assert "1 oakum init" in listing
    eventually(lambda: "sleep 0.2" not in box.execute("b", "ps -o args")[1].splitlines(), "the orphan ends")
    eventually(lambda: "Z" not in box.execute("b", "grep -h ^State /proc/[0-9]*/status")[1], "it is reaped")
    box.execute("b", "kill -9 1")
    assert box.execute("b", "ls /proc/1/root/etc")[0] != 0
    assert box.shim.stop("a", 9, 0).exit_code == 137
    assert "sleep 305" in box.execute("b", "ps -o pid,args")[1]
    box.close()
    assert box.left() == []


def test_joining_the_processes_of_another_container(box: Box) -> None:
    box.sh("target", "sleep 306")
    box.sh(
        "debug", "ps; sleep 307", target_pid_of="target", namespaces=("mount", "ipc", "uts", "network", "pid")
    )
    assert "sleep 306" in box.execute("debug", "ps")[1]
    with pytest.raises(NotFound):
        box.sh("x", "true", target_pid_of="nobody")


def test_a_pod_with_user_ids_of_its_own(directories: Directories, rootfs: str) -> None:
    mapping = ({"containerID": 0, "hostID": 100_000, "size": 65536},)
    box = Box(
        directories.root,
        directories.state,
        rootfs,
        create_namespaces=("user", "network", "ipc", "uts"),
        hostname="mapped",
        uid_mappings=mapping,
        gid_mappings=mapping,
    )
    created = box.sh("c1", "sleep 308", namespaces=("mount", "pid", "ipc", "uts", "network", "user"))
    assert os.stat(f"/proc/{created.pid}").st_uid == 100_000
    assert box.execute("c1", "id -u; hostname; cat /proc/self/uid_map")[1].split() == [
        "0", "mapped", "0", "100000", "65536",
    ]  # fmt: skip
    box.close()
    assert box.left() == []


def test_two_requests_for_one_directory_make_one_shim(box: Box) -> None:
    from oakum.shim.client import SandboxRequest, spawn_shim

    with pytest.raises(AlreadyExists):
        spawn_shim(box.state, SandboxRequest(box.sandbox_id, box.directory))
    assert box.shim.pid() == box.pid
    with box.connect() as client:
        assert client.pid() == box.pid


def test_a_sandbox_that_cannot_be_made_leaves_nothing(directories: Directories, rootfs: str) -> None:
    with pytest.raises(OakumError, match="not namespaced"):
        Box(directories.root, directories.state, rootfs, sysctls={"kernel.panic": "1"})
    with pytest.raises(OakumError, match="set sysctl"):
        Box(directories.root, directories.state, rootfs, sysctls={"net.ipv4.no_such_thing": "1"})
    for name in os.listdir(f"{directories.state}/pods"):
        assert os.listdir(f"{directories.state}/pods/{name}") == []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        assert directories.state not in file.read()


def test_shutdown_ends_everything_and_may_be_asked_for_twice(box: Box) -> None:
    pids = [box.sh(f"c{n}", "trap '' TERM; sleep 309 & wait; sleep 309").pid for n in range(3)]
    second = box.connect()
    box.shim.shutdown()
    box.shim.shutdown()
    second.shutdown()
    assert not any(alive(pid) for pid in pids)
    eventually(lambda: not alive(box.pid), "the shim has ended")
    assert box.left() == []
    assert exits.read(box.bundle("c0")) is not None


def test_a_terminal_is_the_containers_controlling_one(box: Box) -> None:
    box.shim.create(
        box.request(
            "c1",
            ["sh", "-c", "trap 'exit 130' INT; echo hi > /dev/tty; sleep 300 & wait"],
            tty=True,
            stdin=True,
        )
    )
    stream = box.connect().attach("c1", stdin=True)
    stream.settimeout(60)
    box.shim.start("c1")
    decoder, said = frames.Decoder(), b""
    while len(said) < len(b"hi\r\n"):
        said += joined(decoder.feed(stream.recv(100)), frames.STDOUT)
    assert said == b"hi\r\n"
    stream.sendall(frames.encode(frames.STDIN, b"\x03"))  # what a terminal turns into SIGINT
    record = box.shim.wait("c1", 60)
    assert record.exit_code == 130
    stream.close()
