# SPDX-License-Identifier: Apache-2.0
"""`oakum run` as a docker user expects it: exit codes, streams, terminals, signals, and nothing left."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.kernel.cli_box import Box
from tests.support.patience import eventually, patient
from tests.support.ports import free_port


def run(box: Box, *arguments: str, **options) -> str:
    return box("run", "--rm", *arguments, **options)


# exit codes and streams


def test_output_and_exit_code_are_the_commands_own(box: Box) -> None:
    done = box.full("run", "--rm", box.image, "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    assert box.containers() == []


def test_a_command_that_is_not_there_ends_with_127(box: Box) -> None:
    done = box.full("run", "--rm", box.image, "nonexistent-command")
    assert done.returncode == 127
    assert b"nonexistent-command" in done.stderr
    assert b"Traceback" not in done.stderr
    assert box.containers() == []


def test_a_command_that_cannot_be_executed_ends_with_126(box: Box) -> None:
    done = box.full("run", "--rm", box.image, "/etc/passwd")
    assert done.returncode == 126
    assert box.containers() == []


def test_an_image_that_is_not_there_ends_with_125(box: Box) -> None:
    done = box.full("run", "--rm", f"{box.address}/cli/nothing:1", "true")
    assert done.returncode == 125
    assert b"cli/nothing" in done.stderr
    done = box.full("run", "--rm", "--pull", "never", "never-pulled", "true")
    assert done.returncode == 125
    assert b"never-pulled" in done.stderr
    assert box.containers() == []


def test_a_missing_image_is_pulled_and_said_on_stderr(box: Box) -> None:
    box("image", "rm", box.image)
    done = box.full("run", "--rm", box.image, "echo", "pulled")
    assert (done.returncode, done.stdout) == (0, b"pulled\n")
    assert b"pulling" in done.stderr
    quiet = box.full("run", "--rm", "--pull", "always", "-q", box.image, "echo", "again")
    assert (quiet.stdout, quiet.stderr) == (b"again\n", b"")


def test_a_process_that_a_signal_ends_gives_128_and_its_number(box: Box) -> None:
    run(box, box.image, "sh", "-c", "kill -9 $$; sleep 1", code=None)
    assert box.full("run", "--rm", "--init", box.image, "sh", "-c", "kill -TERM $$").returncode == 143


def test_every_byte_arrives(box: Box) -> None:
    process = box.start(
        "run",
        "--rm",
        box.image,
        "sh",
        "-c",
        "dd if=/dev/urandom bs=64k count=64 2>/dev/null | tee /tmp/x; sha256sum /tmp/x >&2",
    )
    data, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(data) == 4 << 20
    assert hashlib.sha256(data).hexdigest() == said.decode().split()[0]


def test_a_slow_reader_slows_the_container_and_loses_nothing(box: Box) -> None:
    process = box.start("run", "--rm", box.image, "sh", "-c", "seq 1 300000; echo end >&2")
    assert process.stdout is not None
    time.sleep(1.0)
    assert process.poll() is None  # it waits for us
    data, said = process.communicate(timeout=60)
    lines = data.split()
    assert (len(lines), lines[0], lines[-1]) == (300000, b"1", b"300000")
    assert said == b"end\n"


def test_standard_input_reaches_it_and_ends(box: Box) -> None:
    payload = os.urandom(300_000)
    done = box.full("run", "--rm", "-i", box.image, "sha256sum", stdin=payload)
    assert done.stdout.split()[0].decode() == hashlib.sha256(payload).hexdigest()


def test_without_i_there_is_no_input(box: Box) -> None:
    assert run(box, box.image, "sh", "-c", "cat; echo nothing", stdin=b"typed") == "nothing\n"


def test_only_the_streams_asked_for(box: Box) -> None:
    done = box.full("run", "--rm", "-a", "stderr", box.image, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"", b"err\n")


def test_a_reader_that_leaves_ends_it(box: Box) -> None:
    process = box.start("run", "--rm", box.image, "yes")
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None
    process.stderr.close()
    assert box.containers() == []


# signals


def test_signals_are_passed_on(box: Box) -> None:
    script = "trap 'echo got; exit 9' USR1; echo ready; while true; do sleep 0.1; done"
    process = box.start("run", "--rm", box.image, "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    data, _ = process.communicate(timeout=60)
    assert (process.returncode, data) == (9, b"got\n")
    assert box.containers() == []


def test_ctrl_c_ends_what_listens_to_it(box: Box) -> None:
    process = box.start("run", "--rm", "--init", box.image, "sh", "-c", "echo ready; exec sleep 100")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert box.containers() == []


def test_a_container_that_ignores_ctrl_c_goes_with_the_third(box: Box) -> None:
    process = box.start(
        "run", "--rm", box.image, "sh", "-c", "trap '' INT TERM; echo ready; while true; do sleep 1; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert process.poll() is None

    def ended() -> bool:
        # again and again: on a busy machine two may have come as one
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        return process.poll() is not None

    eventually(ended, "it is killed")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"ignores the signal" in said
    assert box.containers() == []


def doings(box: Box, pid: int) -> str:
    """What somebody wants to know of a Ctrl-C that was not heeded: who waits for what, with which signals."""
    rows = json.loads(box("ps", "-a", "--format", "json"))
    found = [str(rows)]
    for each in (pid, *(row["pid"] for row in rows if row["pid"])):
        for name in ("cmdline", "wchan", "syscall", "status"):
            lines = Path(f"/proc/{each}/{name}").read_text(errors="replace").replace("\0", " ").splitlines()
            found += [
                f"{each} {line}" for line in lines if name != "status" or line[:3] in ("Sig", "Shd", "Sta")
            ]
    return "\n".join(found)


@pytest.mark.parametrize("delay_ms", [0, 40, 80, 110, 130, 150, 170, 200, 250, 320])
def test_ctrl_c_at_any_moment_leaves_nothing(box: Box, delay_ms: int) -> None:
    process = box.start("run", "--rm", "--init", box.image, "sleep", "100")
    time.sleep(delay_ms / 1000)
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=patient(10))
    except subprocess.TimeoutExpired as waited:
        # Python's own start, before ours, drops one that falls into a callback, and says so: users press again
        if b"KeyboardInterrupt" not in (waited.stderr or b""):
            said = doings(box, process.pid)
            process.kill()
            process.communicate()
            pytest.fail(said)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=patient(10))
    # before Python has started it is the signal itself that ends it
    assert process.returncode in (130, 1, -signal.SIGINT)
    assert box.containers() == []
    assert box("ps", "-aq") == ""


# terminals


def test_an_interactive_shell_is_a_users_own(box: Box) -> None:
    with box.terminal("run", "--rm", "-it", box.image, "sh", rows=31, columns=97) as terminal:
        terminal.expect(r"# ")
        assert terminal.raw()
        terminal.type("stty size; tty; echo $TERM\n")
        terminal.expect(r"31 97")
        terminal.expect(r"/dev/(pts/\d+|console)")
        terminal.expect("xterm")
        terminal.resize(50, 132)
        terminal.type("sleep 0.3; stty size\n")
        terminal.expect(r"50 132")
        terminal.type("sleep 100\n")
        terminal.expect("sleep 100")
        (container,) = box.containers()
        eventually(lambda: "sleep 100" in box("top", container))
        terminal.type("\x03")  # Ctrl-C ends the sleep, not the shell
        terminal.expect(r"# ")
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
        assert terminal.restored()
    assert box.containers() == []


def test_detach_keys_leave_it_running_and_attach_comes_back(box: Box) -> None:
    with box.terminal("run", "-it", "--name", "left", box.image, "sh") as terminal:
        terminal.expect(r"# ")
        terminal.type("HERE=still\n")
        terminal.expect(r"# ")
        terminal.type("\x10\x11")
        terminal.expect("goes on in the background")
        assert terminal.wait() == 0
        assert terminal.restored()
    assert "left" in box("ps")
    with box.terminal("attach", "left") as terminal:
        eventually(terminal.raw, "it is attached")
        terminal.type("echo $HERE-here\n")
        terminal.expect("still-here")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3


def test_a_detached_container_with_rm_goes_when_it_ends(box: Box) -> None:
    container_id = box("run", "-d", "--rm", "--name", "brief", box.image, "sleep", "100").strip()
    assert container_id in box.containers()
    box("kill", "brief")
    eventually(lambda: container_id not in box.containers(), "the container stayed")


def test_what_was_left_with_rm_still_goes_when_it_ends(box: Box) -> None:
    with box.terminal("run", "--rm", "-it", "--name", "brief", box.image, "sh") as terminal:
        terminal.expect(r"# ")
        terminal.type("\x10\x11")
        assert terminal.wait() == 0
    (container_id,) = box.containers()
    box("kill", "brief")
    eventually(lambda: container_id not in box.containers(), "the container stayed")


def test_a_terminal_that_is_closed_takes_the_shell_along(box: Box) -> None:
    with box.terminal("run", "--rm", "-it", box.image, "sh") as terminal:
        terminal.expect(r"# ")
        os.close(terminal.slave)
        os.close(terminal.master)
        assert terminal.process.wait(60) != 0
        terminal.master, terminal.slave = os.openpty()  # for the fixture to close
    eventually(lambda: box.containers() == [], "the container stayed")


def test_a_terminal_is_refused_where_there_is_none(box: Box) -> None:
    done = box.full("run", "--rm", "-it", box.image, "true")
    assert done.returncode == 125
    assert b"not a terminal" in done.stderr


def test_output_through_a_terminal_has_its_line_ends(box: Box) -> None:
    assert box.full("run", "--rm", "-t", box.image, "echo", "x").stdout == b"x\r\n"


# what options do, seen from inside


def test_environment_directory_and_name(box: Box, tmp_path) -> None:
    file = tmp_path / "env"
    file.write_text("FROM_FILE=1\nBOTH=file\n")
    options = [
        "-e",
        "A=x y",
        "-e",
        "BOTH=option",
        "-e",
        "PASSED",
        "--env-file",
        str(file),
        "-w",
        "/var",
        "-h",
        "boat",
    ]
    script = 'echo "$A|$BOTH|$FROM_FILE|$PASSED|$PWD|$(hostname)|$HOSTNAME"'
    got = run(box, *options, box.image, "sh", "-c", script, env={**os.environ, "PASSED": "on"})
    assert got == "x y|option|1|on|/var|boat|boat\n"


def test_users_and_groups(box: Box) -> None:
    got = run(box, "-u", "1234:4321", "--group-add", "77", box.image, "id")
    assert got.startswith("uid=1234 gid=4321")
    assert "77" in got.partition("groups=")[2]
    assert run(box, "-u", "nobody", box.image, "id", "-un") == "nobody\n"
    done = box.full("run", "--rm", "-u", "nosuchuser", box.image, "id")
    assert done.returncode == 125
    assert b"nosuchuser" in done.stderr


def test_limits_are_in_force(box: Box) -> None:
    options = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "20", "--ulimit", "nofile=100:200"]
    script = (
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null;"
        "ulimit -n; ulimit -Hn;"
        "for i in $(seq 30); do sleep 5 & done 2>&1 | grep -c -i fork"
    )
    lines = run(box, *options, box.image, "sh", "-c", script, code=None).split()
    assert str(64 << 20) in lines
    assert "100" in lines
    assert "200" in lines


def test_too_much_memory_is_oom_killed_and_said(box: Box) -> None:
    script = "x=a; while true; do x=$x$x$x$x; done"
    done = box.full("run", "--name", "hungry", "--memory", "16m", box.image, "sh", "-c", script)
    assert done.returncode == 137
    (row,) = json.loads(box("ps", "-a", "--format", "json"))
    assert (row["state"], row["reason"], row["exit_code"]) == ("exited", "OOMKilled", 137)
    assert "OOMKilled" in box("ps", "-a")


def test_volumes_tmpfs_and_a_read_only_root(box: Box, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_text("from the host\n")
    (tmp_path / "out").mkdir()
    options = [
        *["--read-only", "-v", f"{tmp_path}/in:/in:ro", "-v", f"{tmp_path}/out:/out"],
        *["--tmpfs", "/scratch:size=1m", "--shm-size", "2m"],
    ]
    script = (
        "cat /in/f; touch /in/x 2>&1 | grep -c -i read-only; touch /x 2>&1 | grep -c -i read-only;"
        "echo made > /out/g; touch /scratch/ok && echo scratch; df -k /dev/shm | tail -1 | awk '{print $2}'"
    )
    assert run(box, *options, box.image, "sh", "-c", script).split("\n")[:5] == [
        "from the host",
        "1",
        "1",
        "scratch",
        "2048",
    ]
    assert (tmp_path / "out" / "g").read_text() == "made\n"


def test_a_volume_whose_source_is_missing_is_an_error(box: Box, tmp_path) -> None:
    done = box.full("run", "--rm", "-v", f"{tmp_path}/absent:/x", box.image, "true")
    assert done.returncode == 125
    assert b"absent" in done.stderr
    assert box.containers() == []


def test_capabilities(box: Box) -> None:
    def effective(*options: str) -> int:
        return int(run(box, *options, box.image, "sh", "-c", "grep CapEff /proc/self/status").split()[1], 16)

    usual = effective()
    assert usual >> 12 & 1 == 0  # NET_ADMIN
    assert effective("--cap-add", "net_admin") >> 12 & 1
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "all", "--cap-add", "chown") == 1
    assert effective("--privileged") > usual
    got = run(
        box, "--security-opt", "no-new-privileges", box.image, "grep", "NoNewPrivs", "/proc/self/status"
    )
    assert got.split() == ["NoNewPrivs:", "1"]
    assert run(box, box.image, "grep", "Seccomp:", "/proc/self/status").split()[1] == "2"
    got = run(box, "--security-opt", "seccomp=unconfined", box.image, "grep", "Seccomp:", "/proc/self/status")
    assert got.split()[1] == "0"


def test_networks(box: Box) -> None:
    assert "eth0" in run(box, box.image, "ip", "-o", "addr")
    alone = run(box, "--network", "none", box.image, "ip", "-o", "link")
    assert "eth0" not in alone
    assert "lo" in alone
    ours = os.readlink("/proc/self/ns/net")
    assert run(box, "--network", "host", box.image, "readlink", "/proc/self/ns/net").strip() == ours
    assert run(box, box.image, "readlink", "/proc/self/ns/net").strip() != ours
    hosts = run(
        box,
        "--add-host",
        "db:10.9.8.7",
        "--dns",
        "9.9.9.9",
        box.image,
        "cat",
        "/etc/hosts",
        "/etc/resolv.conf",
    )
    assert "10.9.8.7\tdb" in hosts or "10.9.8.7 db" in hosts
    assert "nameserver 9.9.9.9" in hosts


def test_a_published_port_answers_on_loopback(box: Box) -> None:
    port = free_port()
    script = "mkdir /www; echo served > /www/f; exec httpd -f -p 80 -h /www"
    box("run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", box.image, "sh", "-c", script)
    assert f"127.0.0.1:{port}->80/tcp" in box("ps")

    def served() -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/f", timeout=5) as answer:
                return answer.read()
        except OSError:
            return b""

    assert eventually(served, "nothing answers") == b"served\n"
    taken = box.full("run", "--rm", "-p", f"127.0.0.1:{port}:80", box.image, "true")
    assert taken.returncode == 125
    assert str(port).encode() in taken.stderr
    assert len(box.containers()) == 1


def test_namespaces_of_the_host(box: Box) -> None:
    assert run(box, "--uts", "host", box.image, "hostname").strip() == socket.gethostname()
    assert (
        run(box, "--pid", "host", box.image, "sh", "-c", "cat /proc/$PPID/comm >/dev/null; echo $$").strip()
        != "1"
    )
    assert run(box, box.image, "sh", "-c", "echo $$").strip() == "1"


def test_init_reaps_and_forwards(box: Box) -> None:
    got = run(
        box,
        "--init",
        box.image,
        "sh",
        "-c",
        "echo $$; (sleep 0.1 &); while ps -o comm | grep -q sleep; do sleep 0.05; done; echo reaped",
    )
    assert got.split()[0] != "1"
    assert got.split()[1] == "reaped"


def test_entrypoint_and_labels_and_cidfile(box: Box, tmp_path) -> None:
    path = tmp_path / "cid"
    got = run(box, "--entrypoint", "/bin/echo", "--cidfile", str(path), box.image, "a", "b")
    assert got == "a b\n"
    assert len(path.read_text()) == 64
    again = box.full("run", "--rm", "--cidfile", str(path), box.image, "true")
    assert again.returncode == 125
    assert str(path).encode() in again.stderr


def test_names_are_taken_once(box: Box) -> None:
    box("create", "--name", "mine", box.image, "true")
    done = box.full("run", "--rm", "--name", "mine", box.image, "true")
    assert done.returncode == 125
    assert b"mine" in done.stderr
    assert len(box.containers()) == 1


def test_ten_at_once_all_work(box: Box) -> None:
    started = [box.start("run", "--rm", box.image, "sh", "-c", f"echo {n}; exit {n}") for n in range(10)]
    for number, process in enumerate(started):
        data, said = process.communicate(timeout=60)
        assert (process.returncode, data) == (number, f"{number}\n".encode()), said
    assert box.containers() == []


def test_a_killed_client_leaves_a_container_that_can_be_stopped(box: Box) -> None:
    process = box.start("run", "--name", "orphan", box.image, "sh", "-c", "echo ready; sleep 100")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.communicate()
    assert "Up" in box("ps")
    box("stop", "-t", "0", "orphan")
    assert json.loads(box("ps", "-a", "--format", "json"))[0]["exit_code"] == 137


# other runtimes


def test_another_runtime_runs_it(box: Box) -> None:
    done = box.full(
        "run", "--rm", "--runtime", "runc", box.image, "sh", "-c", "echo out; echo err >&2; exit 42"
    )
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")
    with box.terminal("run", "-it", "--name", "shell", "--runtime", "runc", box.image, "sh") as terminal:
        terminal.expect("# ")
        terminal.type("stty size; exit 3\r")
        terminal.expect("24 80")
        assert terminal.wait() == 3
    box("create", "--name", "again", "--runtime", "runc", box.image, "sh", "-c", "echo again; exit 4")
    for _ in range(2):
        assert box("start", "-a", "again", code=4) == "again\n"
    box("rm", "shell", "again")
    done = box.full("run", "--rm", "--runtime", "nonesuch", box.image, "true")
    assert done.returncode == 125
    assert b"nonesuch" in done.stderr
    assert b"runc" in done.stderr
    assert box.containers() == []
