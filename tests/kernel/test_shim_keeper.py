# SPDX-License-Identifier: Apache-2.0
"""A shim that rests: its keeper alone logs and reaps, and a new supervisor goes on with everything as it was."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from oakum.errors import Unavailable
from oakum.shim import exits, frames
from oakum.shim.cleanup import cleanup_directory
from oakum.shim.client import ExecRequest, ShimClient
from tests.conftest import Directories
from tests.kernel.shim_box import Box, alive, read_log
from tests.kernel.test_shim_containers import joined, read_frames
from tests.support.patience import eventually

pytestmark = pytest.mark.root


@pytest.fixture
def box(directories: Directories, rootfs: str) -> Iterator[Box]:
    made = Box(directories.root, directories.state, rootfs)
    yield made
    made.close()
    assert made.left() == []


def test_a_line_begun_before_the_rest_and_ended_after_it_is_one_line(box: Box, tmp_path) -> None:
    log, fifo = tmp_path / "0.log", f"{box.rootfs}/tmp/{box.sandbox_id}"
    words = ("two", "three")
    for word in words:
        os.mkfifo(f"{fifo}-{word}")
    script = (
        f"printf one; for w in two three; do read x < /tmp/{box.sandbox_id}-$w; printf $w; done; echo; exit 5"
    )
    try:
        box.sh("c1", script, log_path=str(log))
        for word in words:
            box.rest()
            with open(f"{fifo}-{word}", "w", encoding="ascii") as file:
                file.write("go\n")
            box.wake()
            assert box.shim.containers()
        assert box.shim.wait("c1", 60).exit_code == 5
        assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == ["stdout F onetwothree"]
    finally:
        for word in words:
            os.unlink(f"{fifo}-{word}")


def test_the_keeper_logs_both_streams_and_the_end_is_recorded_without_a_client(box: Box, tmp_path) -> None:
    log = str(tmp_path / "0.log")
    box.sh(
        "c1",
        "sleep 1; for i in 1 2 3; do sleep 0.1; echo $i; echo e$i >&2; done; sleep 1; echo last; exit 3",
        log_path=log,
    )
    box.rest()
    eventually(lambda: exits.read(box.bundle("c1")), "the exit record")
    record = exits.read(box.bundle("c1"))
    assert record is not None
    assert record.exit_code == 3
    assert record.started_at_ns > 0
    with open(log, encoding="ascii") as file:
        lines = [line.split(" ", 1)[1].rstrip("\n") for line in file]
    assert [line for line in lines if "stdout" in line] == [
        f"stdout F {word}" for word in ("1", "2", "3", "last")
    ]
    assert [line for line in lines if "stderr" in line] == [f"stderr F e{i}" for i in (1, 2, 3)]
    box.rest()
    box.wake()
    assert box.shim.wait("c1", 60) == record
    assert [(s.state, s.pid > 0) for s in box.shim.containers()] == [("exited", True)]
    box.shim.delete("c1")
    assert box.shim.containers() == []


def test_what_was_created_paused_or_has_a_terminal_is_so_after_a_rest(box: Box) -> None:
    created = box.shim.create(box.request("created", ["sh", "-c", "exit 4"]))
    box.sh("paused", "sleep 100")
    box.shim.pause("paused")
    box.sh("terminal", "read x; stty size; sleep 100", tty=True, stdin=True)
    box.rest()
    box.wake()
    states = {s.container_id: (s.state, s.pid) for s in box.shim.containers()}
    assert states["created"] == ("created", created.pid)
    assert {name: state for name, (state, _) in states.items()} == {
        "created": "created", "paused": "paused", "terminal": "running",
    }  # fmt: skip
    box.shim.start("created")
    assert box.shim.wait("created", 60).exit_code == 4
    box.shim.resume("paused")
    assert box.execute("paused", "echo thawed") == (0, "thawed\n")
    box.shim.resize("terminal", 33, 77)
    stream = box.connect().attach("terminal", stdin=True)
    stream.sendall(frames.encode(frames.STDIN, b"\n"))
    seen = b""
    decoder = frames.Decoder()
    while b"33 77" not in seen:
        seen += b"".join(payload for _, payload in decoder.feed(stream.recv(4096)))
    stream.close()


def test_input_stays_open_over_a_rest_and_ends_when_it_is_closed(box: Box) -> None:
    box.run("c1", "cat", stdin=True)
    box.rest()
    box.wake()
    stream = box.connect().attach("c1", stdin=True)
    stream.sendall(frames.encode(frames.STDIN, b"echoed\n"))
    decoder = frames.Decoder()
    assert decoder.feed(stream.recv(4096)) == [(frames.STDOUT, b"echoed\n")]
    box.shim.close_stdin("c1")
    assert joined(read_frames(stream), frames.STDOUT) == b""
    assert box.shim.wait("c1", 60).exit_code == 0
    stream.close()


def test_the_record_of_an_exec_is_kept_over_a_rest(box: Box) -> None:
    box.sh("c1", "sleep 100")
    running = box.shim.exec("c1", ExecRequest({"args": ["sh", "-c", "sleep 0.2; exit 9"]}))
    box.rest()
    box.wake()
    answer = box.shim.call({"op": "wait_exec", "exec_id": running.exec_id, "timeout_s": 60}).value
    assert answer["exit_code"] == 9


def test_the_log_is_reopened_after_a_rest(box: Box, tmp_path) -> None:
    log = tmp_path / "0.log"
    box.sh("c1", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done", log_path=str(log))
    box.rest()
    eventually(lambda: len(log.read_text().splitlines()) > 20, "the keeper logs")
    os.rename(log, tmp_path / "1.log")
    box.wake()
    box.shim.reopen_log("c1")
    box.rest()
    eventually(lambda: len(log.read_text().splitlines()) > 20, "the keeper logs into the new file")
    box.wake()
    box.shim.stop("c1", signal.SIGKILL, 0)
    text = read_log(str(tmp_path / "1.log")) + read_log(str(log))
    lines = text.splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]


def test_a_killed_supervisor_ends_its_shim_as_a_killed_shim_does(
    directories: Directories, rootfs: str
) -> None:
    box = Box(directories.root, directories.state, rootfs)
    running = box.sh("c1", "sleep 100")
    os.kill(box.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not alive(box.pid), "the keeper has ended too")
    assert alive(running.pid)
    with pytest.raises(Unavailable):
        ShimClient.connect(box.directory)
    cleanup_directory(box.directory, box.cgroup)
    assert not alive(running.pid)
    assert box.left() == []
    box.shim.close()


@pytest.mark.parametrize("resting", [True, False])
def test_a_killed_keeper_takes_its_supervisor_along(
    directories: Directories, rootfs: str, resting: bool
) -> None:
    box = Box(directories.root, directories.state, rootfs)
    running = box.sh("c1", "sleep 100")
    supervisor = box.supervisor_pid()
    assert supervisor
    if resting:
        box.rest()
    os.kill(box.pid, signal.SIGKILL)
    eventually(lambda: not alive(box.pid), "the keeper is dead")
    cleanup_directory(box.directory, box.cgroup)  # waits for a supervisor that is about to die
    assert not alive(supervisor)
    assert not alive(running.pid)
    assert box.left() == []
    box.shim.close()


def test_a_container_whose_process_dies_before_its_start_while_the_shim_rests(box: Box) -> None:
    created = box.shim.create(box.request("c1", ["true"]))
    box.rest()
    os.kill(created.pid, signal.SIGKILL)
    eventually(lambda: exits.read(box.bundle("c1")), "the exit record")
    with open(f"{box.bundle('c1')}/exit.json", encoding="ascii") as file:
        assert json.load(file)["exit_code"] == 137
