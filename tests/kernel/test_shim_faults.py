# SPDX-License-Identifier: Apache-2.0
"""What is killed, full, gone or slow around a shim: zygote, clients, log, readers, the shim itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from oakum.errors import AlreadyExists, FailedPrecondition, OakumError, Unavailable
from oakum.linux import sockets
from oakum.shim import exits, frames, wire
from oakum.shim.cleanup import cleanup_directory
from oakum.shim.client import ShimClient
from oakum.shim.starter import ensure_zygote
from tests.conftest import Directories
from tests.kernel.shim_box import Box, alive, read_log
from tests.support.patience import eventually, patient
from tests.support.zygotes import end_zygote, zygote_pid

pytestmark = pytest.mark.root


@pytest.fixture
def box(directories: Directories, rootfs: str) -> Iterator[Box]:
    made = Box(directories.root, directories.state, rootfs)
    yield made
    made.close()
    assert made.left() == []


def test_the_shim_survives_the_zygote_and_the_next_spawn_starts_a_new_one(box: Box) -> None:
    first = zygote_pid(box.state)
    box.sh("c1", "sleep 100")
    end_zygote(box.state)
    assert alive(box.pid)
    assert box.execute("c1", "echo still here")[1] == "still here\n"
    other = Box(box.root, box.state, box.rootfs)
    assert zygote_pid(box.state) not in (None, first)
    other.close()
    assert other.left() == []


def test_many_starters_at_once_make_one_zygote(directories: Directories) -> None:
    threads = [threading.Thread(target=ensure_zygote, args=(directories.state,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    pid = zygote_pid(directories.state)
    assert pid is not None
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        assert file.read().rstrip(b"\0") == b"oakum zygote"
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:oakum")
    mine = [p for p in os.listdir("/proc") if p.isdigit() and _holds(p, directories.state)]
    assert mine == [str(pid)]


def _holds(pid: str, state: str) -> bool:
    try:
        return any(
            os.readlink(f"/proc/{pid}/fd/{fd}") == f"{state}/zygote.log"
            for fd in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False


def test_a_zygote_whose_socket_has_gone_ends_by_itself(directories: Directories) -> None:
    ensure_zygote(directories.state)
    pid = zygote_pid(directories.state)
    assert pid is not None
    os.unlink(f"{directories.state}/zygote.sock")
    eventually(lambda: not alive(pid), "the zygote has ended", 15)


def test_a_zygote_of_other_code_is_replaced(directories: Directories, rootfs: str) -> None:
    ensure_zygote(directories.state)
    old = zygote_pid(directories.state)
    with (
        sockets.connect(directories.state, "zygote.sock", timeout_s=60) as sock,
        pytest.raises(Unavailable),
    ):
        wire.call(sock, {"op": "spawn", "code": "0.0.1:other", "sandbox": {}}, timeout_s=60, peer="zygote")
    made = Box(directories.root, directories.state, rootfs)
    assert zygote_pid(directories.state) != old
    made.close()


def test_neither_zygote_nor_shim_can_be_looked_into(box: Box) -> None:
    for pid in (box.pid, zygote_pid(box.state)):
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
             "ls", f"/proc/{pid}/fd"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0, done.stdout
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            assert file.read().startswith(b"oakum ")


CLIENT = """
import sys
from oakum.shim.client import ShimClient, ExecRequest
client = ShimClient.connect(sys.argv[1])
print("ready", flush=True)
if sys.argv[2] == "wait":
    client.wait(sys.argv[3])
elif sys.argv[2] == "stop":
    client.stop(sys.argv[3], 15, 60)
"""


@pytest.mark.parametrize("operation", ["wait", "stop"])
def test_a_client_killed_in_the_middle_of_a_call_leaves_nothing(box: Box, operation: str) -> None:
    box.sh("c1", "trap '' TERM; while :; do sleep 0.1; done")
    fds = f"/proc/{box.supervisor_pid()}/fd"
    before = len(os.listdir(fds))
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, box.directory, operation, "c1"], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    eventually(lambda: len(os.listdir(fds)) == before + 1, "the shim has the client")
    client.kill()
    client.wait()
    client.stdout.close()
    eventually(lambda: len(os.listdir(fds)) == before, "the shim has let go")
    assert box.execute("c1", "echo alive")[1] == "alive\n"
    assert box.shim.stop("c1", 15, 0.1).exit_code == 137


@pytest.mark.cgroup
def test_a_client_that_vanishes_while_it_creates_leaves_no_container(box: Box) -> None:
    request = box.request("c1", ["sleep", "100"])
    with sockets.connect(box.directory, "shim.sock", timeout_s=60) as sock:
        sockets.send_frame(sock, wire.encode({"op": "create", "container": request.to_dict()}))

    def name_is_free() -> bool:
        try:
            box.run("c1", "true")
        except AlreadyExists:
            return False
        return True

    eventually(name_is_free, "the container is gone again")
    assert box.shim.wait("c1", 60).exit_code == 0


@pytest.mark.cgroup
def test_a_client_that_vanishes_while_it_execs_leaves_no_process(box: Box) -> None:
    box.sh("c1", "sleep 100")
    message = {
        "op": "exec",
        "container_id": "c1",
        "exec": {
            "process": {"args": ["sleep", "310"]}, "user": "", "extra_groups": [], "strict_groups": False,
            "tty": False, "rows": 0, "columns": 0, "seccomp_bpf": "",
        },
    }  # fmt: skip
    for _ in range(5):
        with sockets.connect(box.directory, "shim.sock", timeout_s=60) as sock:
            sockets.send_frame(sock, wire.encode(message))
    eventually(lambda: "sleep 310" not in box.execute("c1", "ps")[1], "no exec is left")


@pytest.mark.cgroup
def test_a_grandchild_that_holds_stdout_does_not_hold_up_the_end(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    began = time.monotonic()
    box.sh("c1", "(sleep 311 &) ; echo done", log_path=log, namespaces=("mount", "ipc", "uts", "network"))
    assert box.shim.wait("c1", 60).exit_code == 0
    assert time.monotonic() - began < patient(3)
    assert read_log(log) == "done\n"


def test_a_hundred_megabytes_past_a_client_that_does_not_read(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    request = box.request("c1", ["sh", "-c", "yes 0123456789 | head -c 100m"], log_path=log)
    box.shim.create(request)
    slow = box.connect().attach("c1")
    box.shim.start("c1")
    while True:
        answered = time.monotonic()
        box.shim.containers()
        assert time.monotonic() - answered < patient(1)  # the shim goes on serving
        if box.shim.containers()[0].state == "exited":
            break
        time.sleep(0.05)
    assert box.shim.wait("c1", 60).exit_code == 0
    assert os.path.getsize(log) > 100 << 20
    decoder, last = frames.Decoder(), -1
    slow.settimeout(60)
    while data := slow.recv(65536):
        for kind, _ in decoder.feed(data):
            last = kind
    assert last == frames.ERROR
    slow.close()
    with open(f"/proc/{box.supervisor_pid()}/status", encoding="ascii") as file:
        rss_kb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    assert rss_kb < 40_000


def test_when_the_logs_directory_has_gone_the_container_goes_on(box: Box, tmp_path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    box.sh("c1", "while :; do echo tick; sleep 0.02; done", log_path=str(directory / "0.log"))
    (directory / "0.log").unlink()
    directory.rmdir()
    with pytest.raises(OakumError, match="open log"):
        box.shim.reopen_log("c1")
    assert box.shim.containers()[0].state == "running"
    directory.mkdir()
    box.shim.reopen_log("c1")
    eventually(lambda: "tick" in read_log(str(directory / "0.log")), "the log goes on")
    with pytest.raises(OakumError, match="open log"):
        box.sh("c2", "true", log_path=str(tmp_path / "nowhere" / "0.log"))


def test_a_full_disk_under_the_log_does_not_stop_the_container(box: Box, tmp_path) -> None:
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(directory)], check=True)
    try:
        box.sh("c1", "yes 0123456789 | head -c 1m; sleep 0.3; exit 6", log_path=str(directory / "0.log"))
        eventually(lambda: box.shim.containers()[0].log_error, "the error is reported")
        state = box.shim.containers()[0]
        assert "No space left" in state.log_error
        assert state.log_lost_bytes > 0
        assert box.shim.wait("c1", 60).exit_code == 6
        with open(directory / "0.log", encoding="ascii") as file:
            *whole, last = file.read().split("\n")
        assert len(whole) > 100
        assert {line.split(" ", 1)[1] for line in whole} == {"stdout F 0123456789"}
        assert len(last) < len(whole[0])  # at most one line is torn, and it is the last
        box.shim.delete("c1")
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_an_exit_record_that_cannot_be_written_is_told_all_the_same(box: Box) -> None:
    box.sh("c1", "read x; exit 2", stdin=True)
    os.rename(box.bundle("c1"), box.bundle("gone"))
    box.shim.close_stdin("c1")
    record = box.shim.wait("c1", 60)
    assert record.exit_code == 2
    assert "write exit record" in record.message


@pytest.mark.cgroup
def test_a_killed_shim_is_cleaned_up_after(directories: Directories, rootfs: str) -> None:
    box = Box(directories.root, directories.state, rootfs, create_namespaces=("network", "ipc", "uts", "pid"))
    running = box.sh("c1", "sleep 312 & sleep 312")
    shared = [{"type": "pid", "path": f"{box.directory}/ns/pid"}, {"type": "mount"}]
    other = box.sh("c2", "sleep 313", namespaces=shared)
    created = box.shim.create(box.request("c3", ["sleep", "314"]))
    with pytest.raises(FailedPrecondition, match="its shim is alive"):
        cleanup_directory(box.directory, box.cgroup)
    box.kill_shim()
    with pytest.raises(Unavailable):
        ShimClient.connect(box.directory)
    cleanup_directory(box.directory, box.cgroup)
    for pid in (running.pid, other.pid, created.pid):
        assert not alive(pid)
    assert box.left() == []
    assert exits.read(box.bundle("c1")) is None
    cleanup_directory(box.directory, box.cgroup)
    box.shim.close()


@pytest.mark.cgroup
def test_a_spawn_into_the_directory_of_a_killed_shim_works(directories: Directories, rootfs: str) -> None:
    from oakum.shim.client import SandboxRequest, spawn_shim

    box = Box(directories.root, directories.state, rootfs)
    box.kill_shim()
    cleanup_directory(box.directory, box.cgroup)
    again = spawn_shim(
        box.state, SandboxRequest(box.sandbox_id, box.directory, ("network",), cgroup_path=box.cgroup)
    )
    again.shutdown()
    eventually(lambda: box.left() == [], "nothing is left")
    box.shim.close()


def test_signals_meant_for_daemons_do_not_end_a_shim_but_reach_no_container(box: Box) -> None:
    box.run("c1", "sleep", "100")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        os.kill(box.pid, number)
    with open(f"/proc/{box.shim.containers()[0].pid}/status", encoding="ascii") as file:
        masks = {
            line.split()[0]: int(line.split()[1], 16)
            for line in file
            if line.startswith(("SigIgn", "SigBlk"))
        }
    masks["SigIgn:"] &= ~(3 << 31)  # 32 and 33 are the C library's; what our own parents ignore stays so
    assert masks == {"SigIgn:": 0, "SigBlk:": 0}
    assert box.execute("c1", "echo fine")[1] == "fine\n"
