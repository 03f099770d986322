# SPDX-License-Identifier: Apache-2.0
"""Looking at containers, going into them, changing and ending them: the rest of the command line on a real engine."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.engine.engine import Engine
from tests.kernel.cli_box import Box
from tests.support.images import busybox_layer
from tests.support.patience import eventually, patient
from tests.support.registry import Registry


@pytest.fixture
def web(box: Box) -> str:
    """The name of a container that runs and ticks."""
    script = "n=0; trap 'echo hup' HUP; trap 'echo bye; exit 7' TERM; while true; do n=$((n+1)); echo tick $n; sleep 0.2; done"
    box("run", "-d", "--name", "web", "-l", "app=web", box.image, "sh", "-c", script)
    return "web"


# ps and inspect


def test_ps_shows_what_runs_and_with_a_everything(box: Box, web: str) -> None:
    box("run", "--name", "done", box.image, "sh", "-c", "exit 3", code=3)
    box("create", "--name", "later", box.image, "true")
    running = box("ps").splitlines()
    assert running[0].split()[:3] == ["ID", "NAME", "IMAGE"]
    assert len(running) == 2
    assert "Up" in running[1]
    everything = box("ps", "-a")
    assert "Exited (3)" in everything
    assert "Created" in everything
    rows = json.loads(box("ps", "-a", "--format", "json"))
    assert {row["name"]: row["state"] for row in rows} == {
        "web": "running",
        "done": "exited",
        "later": "created",
    }
    (row,) = [row for row in rows if row["name"] == web]
    assert row["labels"]["app"] == "web"
    assert row["pid"] > 0
    assert row["command"][0] == "sh"
    assert len(row["addresses"]) >= 1


def test_ps_filters(box: Box, web: str) -> None:
    box("create", "--name", "other", box.image, "true")
    assert "other" not in box("ps", "-a", "--label", "app=web")
    assert web in box("ps", "-a", "--label", "app")
    assert "other" in box("ps", "--status", "created")
    assert "web" not in box("ps", "--status", "created")
    assert "other" in box("ps", "--latest")
    assert "other" not in box("ps", "-a", "--name", "we")


def test_inspect_is_json_and_names_what_is_missing(box: Box, web: str) -> None:
    (found,) = json.loads(box("inspect", web))
    text = json.dumps(found)
    assert "tick" in text
    assert "ociVersion" in text
    done = box.full("inspect", web, "nothing")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)) == 1
    assert b"nothing" in done.stderr


# exec


def test_exec_keeps_exit_code_and_streams(box: Box, web: str) -> None:
    done = box.full("exec", web, "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (9, b"out\n", b"err\n")
    assert (
        box("exec", "-e", "A=1", "-w", "/var", "-u", "1234", web, "sh", "-c", "echo $A $PWD $(id -u)")
        == "1 /var 1234\n"
    )
    assert box("exec", "-i", web, "cat", stdin=b"through") == "through"
    assert box("exec", web, "cat", stdin=b"not passed") == ""


def test_exec_of_what_is_not_there(box: Box, web: str) -> None:
    done = box.full("exec", web, "nonexistent")
    assert done.returncode == 127
    assert box.full("exec", "nothing", "true").returncode == 1
    box("stop", "-t", "1", web)
    done = box.full("exec", web, "true")
    assert done.returncode == 1
    assert b"oakum: " in done.stderr


def test_exec_of_much_output_loses_nothing(box: Box, web: str) -> None:
    got = box("exec", web, "seq", "1", "200000").split()
    assert (len(got), got[-1]) == (200000, "200000")


def test_exec_in_a_terminal(box: Box, web: str) -> None:
    with box.terminal("exec", "-it", web, "sh", rows=29, columns=91) as terminal:
        terminal.expect("# ")
        terminal.type("stty size\n")
        terminal.expect("29 91")
        terminal.resize(40, 100)
        terminal.type("sleep 0.3; stty size\n")
        terminal.expect("40 100")
        terminal.type("exit 4\n")
        assert terminal.wait() == 4
        assert terminal.restored()


def test_ctrl_c_reaches_the_exec_and_only_it(box: Box, web: str) -> None:
    process = box.start(
        "exec", web, "sh", "-c", "trap 'exit 33' INT; echo ready; while true; do sleep 0.1; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 33
    assert "Up" in box("ps")


def test_a_detached_exec_goes_on(box: Box, web: str) -> None:
    box("exec", "-d", web, "sh", "-c", "sleep 0.3; echo made > /tmp/by-exec")
    eventually(lambda: box("exec", web, "cat", "/tmp/by-exec", code=None) == "made\n", "the exec did nothing")


# logs and attach


def test_logs(box: Box) -> None:
    box(
        "run",
        "--name",
        "talker",
        box.image,
        "sh",
        "-c",
        "echo one; echo two >&2; echo three; printf unfinished",
    )
    done = box.full("logs", "talker")
    assert done.stdout == b"one\nthree\nunfinished"
    assert done.stderr == b"two\n"
    assert box("logs", "--tail", "1", "talker") == "unfinished"
    stamped = box("logs", "-t", "talker").splitlines()[0]
    assert stamped.endswith("Z one")
    assert box("logs", "--since", "1h", "talker").startswith("one")
    assert box("logs", "--since", "2999-01-01T00:00:00Z", "talker") == ""
    rows = [json.loads(line) for line in box("logs", "--format", "json", "talker").splitlines()]
    assert [row["stream"] for row in rows].count("stderr") == 1


def test_following_logs_ends_with_the_container(box: Box, web: str) -> None:
    process = box.start("logs", "-f", web)
    assert process.stdout is not None
    assert process.stdout.readline() == b"tick 1\n"
    box("stop", web)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest.endswith(b"bye\n")


def test_attach_shows_and_passes_signals_on(box: Box, web: str) -> None:
    process = box.start("attach", web)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"tick")
    process.send_signal(signal.SIGTERM)
    data, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    assert data.endswith(b"bye\n")


# life


def test_stop_is_polite_then_firm(box: Box, web: str) -> None:
    eventually(lambda: "tick" in box("logs", web), "no tick")
    assert box("stop", web) == "web\n"
    (row,) = json.loads(box("ps", "-a", "--format", "json"))
    assert (row["state"], row["exit_code"]) == ("exited", 7)
    assert box("stop", web) == "web\n"  # what is stopped is stopped
    box("run", "-d", "--name", "deaf", box.image, "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
    began = time.monotonic()
    box("stop", "-t", "1", "deaf")
    assert 0.9 < time.monotonic() - began < patient(10)
    assert json.loads(box("ps", "-a", "--name", "deaf", "--format", "json"))[0]["exit_code"] == 137


def test_a_stop_signal_and_timeout_of_its_own(box: Box) -> None:
    script = "trap 'exit 55' USR2; echo ready; while true; do sleep 0.1; done"
    box(
        "run",
        "-d",
        "--name",
        "own",
        "--stop-signal",
        "USR2",
        "--stop-timeout",
        "20",
        box.image,
        "sh",
        "-c",
        script,
    )
    eventually(lambda: "ready" in box("logs", "own"), "not ready")
    box("stop", "own")
    assert box("wait", "own") == "55\n"


def test_kill_sends_any_signal(box: Box, web: str) -> None:
    eventually(lambda: "tick" in box("logs", web), "no tick")
    box("kill", "-s", "HUP", web)
    eventually(lambda: "hup" in box("logs", web), "the signal did not arrive")
    box("kill", web)
    assert box("wait", web) == "137\n"
    done = box.full("kill", web)
    assert done.returncode == 1
    assert box.full("kill", "-s", "BOGUS", web).returncode == 125


def test_pause_stops_the_clock(box: Box, web: str) -> None:
    eventually(lambda: "tick" in box("logs", web), "no tick")
    box("pause", web)
    assert "Paused" in box("ps")
    ticks = 0

    def stands_still() -> bool:
        nonlocal ticks
        before = box("logs", web).count("tick")  # the last of them may yet be on its way into the log
        time.sleep(0.7)
        ticks = box("logs", web).count("tick")
        return ticks == before

    eventually(stands_still, "it ticks on")
    box("unpause", web)
    eventually(lambda: box("logs", web).count("tick") > ticks, "it stands still")


def test_wait_gives_exit_codes(box: Box) -> None:
    box("run", "-d", "--name", "a", box.image, "sh", "-c", "sleep 0.5; exit 4")
    box("run", "-d", "--name", "b", box.image, "true")
    assert box("wait", "a", "b") == "4\n0\n"


def test_update_changes_limits_of_what_runs(box: Box, web: str) -> None:
    box("update", "--memory", "96m", "--pids-limit", "50", web)
    script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
    assert str(96 << 20) in box("exec", web, "sh", "-c", script, code=None)
    assert box.full("update", web).returncode == 125


def test_create_start_and_stay_with_it(box: Box) -> None:
    box("create", "--name", "job", "-i", box.image, "sh", "-c", "cat; exit 6")
    assert box("start", "-a", "-i", "job", stdin=b"given later", code=6) == "given later"
    box("create", "--name", "plain", box.image, "true")
    assert box("start", "plain") == "plain\n"
    assert box("wait", "plain") == "0\n"


def test_rm_wants_force_for_what_runs(box: Box, web: str) -> None:
    done = box.full("rm", web)
    assert done.returncode == 1
    assert b"-f" in done.stderr
    assert box("rm", "-f", web) == "web\n"
    assert box.full("rm", web).returncode == 1
    assert box.full("rm", "-f", web).returncode == 0
    for name in ("x", "y"):
        box("run", "--name", name, box.image, "true")
    assert len(box("rm", "--ended").split()) == 2
    assert box.containers() == []


def test_stats_count(box: Box, web: str) -> None:
    (row,) = json.loads(box("stats", "--no-stream", "--format", "json"))
    assert row["name"] == web
    assert row["memory_bytes"] > 0
    assert row["pids"] >= 1
    assert row["cpu_percent"] >= 0
    table = box("stats", "--no-stream", web)
    assert table.split()[:4] == ["ID", "NAME", "CPU", "%"]


def test_live_stats_end_with_ctrl_c(box: Box, web: str) -> None:
    with box.terminal("stats", columns=120) as terminal:
        terminal.expect(web)
        terminal.type("\x03")
        assert terminal.wait() == 0


# images


def test_images_are_listed_tagged_inspected_and_removed(box: Box) -> None:
    rows = json.loads(box("image", "ls", "--format", "json"))
    assert rows[0]["names"] == [box.image]
    assert "cli/busybox" in box("image", "ls")
    box("image", "tag", box.image, "other/name:2")
    assert "other/name" in box("image", "ls")
    (found,) = json.loads(box("image", "inspect", "other/name:2"))
    assert "linux" in json.dumps(found)
    assert "other/name:2" in box("image", "rm", "other/name:2")
    assert box.full("image", "rm", "other/name:2").returncode != 0
    assert box.full("image", "rm", "-f", "other/name:2").returncode == 0
    assert json.loads(box("image", "ls", "--format", "json"))[0]["names"] == [box.image]


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_images_go_out_and_come_back(box: Box, tmp_path, kind: str) -> None:
    path = str(tmp_path / "image.tar")
    box("image", "export", "--as", kind, "-o", path, box.image)
    box("-n", "elsewhere", "image", "import", path)
    assert box("-n", "elsewhere", "run", "--rm", "--network", "none", box.image, "echo", "here") == "here\n"
    box("-n", "elsewhere", "image", "rm", box.image)
    box("ns", "rm", "elsewhere")


def test_an_archive_is_never_written_to_a_terminal(box: Box) -> None:
    with box.terminal("image", "export", box.image) as terminal:
        assert terminal.wait() == 125
        assert "is a terminal" in terminal.text


def test_push_and_pull_again(box: Box) -> None:
    copy = f"{box.address}/cli/copy:9"
    box("image", "tag", box.image, copy)
    assert box("image", "push", "-q", copy).startswith("sha256:")
    box("image", "rm", copy)
    assert box("image", "pull", "-q", copy).startswith("sha256:")
    shown = box.full("image", "pull", copy)
    assert b"pulling" in shown.stderr
    box("image", "rm", copy)


def test_what_docker_was_logged_in_to_opens_a_private_registry(box: Box, tmp_path: Path) -> None:
    with Registry(tmp_path / "registry", username="me", password="secret") as private:
        private.push_image("cli/private", "1", [busybox_layer()])
        image = f"{private.address}/cli/private:1"
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {private.address: {"auth": base64.b64encode(b"me:secret").decode()}}})
        )
        stranger = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "none")}
        known = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
        assert b"me:secret" not in box.full("run", "--rm", image, "true", env=stranger).stderr
        assert image not in box("image", "ls", "--format", "json")
        assert box("run", "--rm", "-q", image, "echo", "ran", env=known) == "ran\n"
        assert box("image", "push", "-q", image, env=known).startswith("sha256:")
        box("image", "rm", image)


def test_a_pull_in_a_terminal_shows_bars(box: Box) -> None:
    copy = f"{box.address}/cli/busybox:1"
    with box.terminal("-n", "bars", "image", "pull", copy, columns=120) as terminal:
        terminal.expect("pulling")
        assert terminal.wait() == 0
        assert "done" in terminal.text or "exists" in terminal.text
    box("-n", "bars", "image", "rm", copy)
    box("ns", "rm", "bars")


def test_prune_spares_what_is_used(box: Box) -> None:
    box("create", "--name", "user", box.image, "true")
    assert box("image", "prune", "-a") == ""
    assert box.image in json.dumps(json.loads(box("image", "ls", "--format", "json")))


def test_a_pull_of_nothing_says_what_and_why(box: Box) -> None:
    done = box.full("image", "pull", "-q", f"{box.address}/cli/nothing:1")
    assert done.returncode != 0
    assert b"cli/nothing" in done.stderr
    assert b"Traceback" not in done.stderr


# namespaces, pods, the host


def test_namespaces_share_content_but_not_names(box: Box) -> None:
    box("ns", "create", "lab")
    assert box.full("ns", "create", "lab").returncode == 125
    assert box("-n", "lab", "image", "ls", "-q") == ""
    assert "lab" in box("ns", "ls", "-q").split()
    assert {row["name"] for row in json.loads(box("ns", "ls", "--format", "json"))} >= {
        "default",
        "k8s.io",
        "lab",
    }
    box("ns", "rm", "lab")
    assert box.full("ns", "rm", "lab").returncode == 1


def test_containers_of_run_are_no_pods(box: Box, web: str) -> None:
    assert web in box("ps")
    assert len(box("pod", "ls").splitlines()) == 1
    assert json.loads(box("pod", "ls", "--format", "json")) == []
    assert box.full("pod", "rm", "nothing").returncode == 1
    assert box.full("pod", "rm", "-f", "nothing").returncode == 0


def test_pods_that_others_made_are_listed_inspected_stopped_and_removed(box: Box) -> None:
    with Engine(box.root, box.state) as engine:
        namespace = engine.namespace()
        config = SandboxConfig(
            metadata=SandboxMetadata(name="pair", uid="u1", namespace="team"), labels={"app": "pair"}
        )
        pod_id = namespace.run_sandbox(config)
        for name in ("left", "right"):
            container = ContainerConfig(
                metadata=ContainerMetadata(name=name), image=box.image, command=("sleep", "100")
            )
            namespace.start_container(namespace.create_container(pod_id, container))
    assert "left (running), right (running)" in box("pod", "ls")
    assert "pair/left" in box("ps")
    (row,) = json.loads(box("pod", "ls", "--label", "app=pair", "--format", "json"))
    assert (row["id"], row["namespace"], row["state"]) == (pod_id, "team", "ready")
    assert box("pod", "ls", "--label", "app=other", "-q") == ""
    assert "pair" in json.dumps(json.loads(box("pod", "inspect", pod_id[:12])))
    box("pod", "stop", pod_id[:12])
    assert "not ready" in box("pod", "ls")
    assert [r["state"] for r in json.loads(box("ps", "-a", "--format", "json"))] == ["exited", "exited"]
    box("pod", "rm", "pair")
    assert box("pod", "ls", "-q") == ""
    assert box.containers() == []


def test_info_says_where_things_are(box: Box) -> None:
    facts = json.loads(box("info", "--format", "json"))
    assert box.root in json.dumps(facts)
    assert box.root in box("info")


def test_gc_takes_what_a_killed_reaper_left(box: Box) -> None:
    container_id = box("run", "-d", "--rm", "--name", "left", box.image, "sleep", "100").strip()
    reapers = [
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdigit() and container_id in _command_line(pid) and "oakum.cli.reaper" in _command_line(pid)
    ]
    assert len(reapers) == 1
    os.kill(reapers[0], signal.SIGKILL)
    box("kill", "left")
    box("wait", "left")
    assert container_id in box.containers()
    assert "left" in box("gc")
    assert box.containers() == []


def _command_line(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def test_names_complete(box: Box, web: str) -> None:
    env = {
        **os.environ,
        "OAKUM_ROOT": box.root,
        "OAKUM_STATE": box.state,
        "_OAKUM_COMPLETE": "bash_complete",
        "COMP_WORDS": "oakum stop w",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "oakum.cli.main"], env=env, capture_output=True, text=True, check=False
    )
    assert web in done.stdout


# top and port


def test_top_shows_the_processes_and_port_where_it_is_reached(box: Box, web: str) -> None:
    rows = json.loads(box("top", "--format", "json", web))
    assert {row["pid"] for row in rows} >= {json.loads(box("inspect", web))[0]["status"]["pid"]}
    assert rows[0]["command"][0] == "sh"
    assert box("top", web).splitlines()[0].split() == ["PID", "USER", "STATE", "TIME", "COMMAND"]
    assert box("port", web) == ""
    box("run", "-d", "--name", "open", "-p", "127.0.0.1::80", "-p", "53/udp", box.image, "sleep", "1000")
    lines = box("port", "open").splitlines()
    assert [line.split(" -> ")[0] for line in lines] == ["80/tcp", "53/udp"]
    assert box("port", "open", "80").startswith("127.0.0.1:")
    assert b"does not publish it" in box.full("port", "open", "81").stderr
    box("kill", "open")
    box("wait", "open")
    assert b"it is exited" in box.full("top", "open").stderr
