# SPDX-License-Identifier: Apache-2.0
"""`oakum oci` as a caller of runc uses it: bundles in, states, exit codes and error lines out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.oci_cli_box import Runtime
from tests.support.patience import eventually, patient


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


@pytest.mark.cgroup
def test_run_gives_back_output_and_exit_code(runtime: Runtime) -> None:
    runtime.write("sh", "-c", "echo hello; exit 7")
    done = runtime("run", "--bundle", runtime.bundle, runtime.new_id(), check=False)
    assert (done.returncode, done.stdout) == (7, "hello\n")
    assert os.listdir(runtime.root) == []


def test_a_signal_that_ends_the_command_is_128_and_more(runtime: Runtime) -> None:
    # a child of the container's first process: that one is immune to signals from inside
    runtime.write("sh", "-c", "sh -c 'kill -9 $$'; exit $?")
    assert runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False).returncode == 137


@pytest.mark.cgroup
def test_a_container_waits_for_its_start_when_its_maker_is_gone(runtime: Runtime) -> None:
    container = runtime.create("sh", "-c", "echo started > /tmp/x; exec sleep 600")
    state = runtime.state(container)
    assert state["status"] == "created"
    assert state["bundle"] == runtime.bundle
    assert state["rootfs"] == f"{runtime.bundle}/rootfs"
    assert state["ociVersion"].startswith("1.3")
    assert state["owner"] == ""
    assert os.readlink(f"/proc/{state['pid']}/cwd") is not None
    assert not os.path.exists(f"{runtime.bundle}/rootfs/tmp/x")
    runtime("start", container)
    eventually(lambda: os.path.exists(f"{runtime.bundle}/rootfs/tmp/x"))
    assert runtime.state(container)["status"] == "running"
    refused = runtime("start", container, check=False)
    assert refused.returncode == 1
    assert "cannot start an already running container" in refused.stderr


def test_what_waits_for_its_start_holds_nothing_of_the_host(runtime: Runtime) -> None:
    container = runtime.create("sleep", "600")
    pid = runtime.state(container)["pid"]
    held = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd") if int(n) > 2}
    assert held == {f"{runtime.root}/{container}/start.fifo", f"{runtime.root}/{container}/status.fifo"}


@pytest.mark.cgroup
def test_the_whole_life(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    assert runtime("list", "--quiet").stdout == f"{container}\n"
    listed = json.loads(runtime("list", "--format", "json").stdout)
    assert [(c["id"], c["status"], c["owner"]) for c in listed] == [(container, "running", "root")]
    assert json.loads(runtime("ps", "--format", "json", container).stdout) == [listed[0]["pid"]]
    assert "sleep 600" in runtime("ps", container).stdout
    runtime("pause", container)
    assert runtime.state(container)["status"] == "paused"
    refused = runtime("exec", container, "true", check=False)
    assert (refused.returncode, "paused container" in refused.stderr) == (255, True)
    runtime("resume", container)
    refused = runtime("delete", container, check=False)
    assert (refused.returncode, "that is not stopped: running" in refused.stderr) == (1, True)
    runtime("kill", container, "KILL")
    eventually(lambda: runtime.state(container)["status"] == "stopped")
    assert runtime.state(container)["pid"] == 0
    refused = runtime("kill", container, "TERM", check=False)
    assert (refused.returncode, "container not running" in refused.stderr) == (1, True)
    assert runtime("start", container, check=False).returncode == 1
    runtime("delete", container)
    gone = runtime("state", container, check=False)
    assert (gone.returncode, "container does not exist" in gone.stderr) == (1, True)
    assert runtime("delete", "--force", container).returncode == 0


@pytest.mark.cgroup
def test_exec_runs_beside_the_first_process(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    done = runtime(
        "exec", "--user", "33:44", "--cwd", "/tmp", "--env", "A=b", container, "sh", "-c",
        "id -u; id -g; pwd; echo $A; exit 3", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (3, ["33", "44", "/tmp", "b"])
    missing = runtime("exec", container, "nosuch", check=False)
    assert missing.returncode == 255
    assert "executable file not found in $PATH" in missing.stderr


def test_exec_as_containerd_does_it(runtime: Runtime, tmp_path: Path) -> None:
    container = runtime.started("sleep", "600")
    process = {
        "args": ["sh", "-c", "echo $B > /tmp/said; exec sleep 600"],
        "cwd": "/",
        "env": ["PATH=/bin", "B=c"],
    }
    (tmp_path / "process.json").write_text(json.dumps(process))
    runtime(
        "exec",
        "--process",
        str(tmp_path / "process.json"),
        "--detach",
        "--pid-file",
        str(tmp_path / "pid"),
        container,
    )
    pid = int((tmp_path / "pid").read_text())
    said = Path(runtime.bundle, "rootfs/tmp/said")
    eventually(lambda: said.exists() and said.read_text() == "c\n")
    assert pid in json.loads(runtime("ps", "-f", "json", container).stdout)


def test_capabilities_added_by_exec_are_never_inheritable(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    text = runtime("exec", "--cap", "CAP_NET_RAW", container, "grep", "Cap", "/proc/self/status").stdout
    sets = dict(line.split(":\t") for line in text.splitlines())
    assert int(sets["CapEff"], 16) >> 13 & 1
    assert int(sets["CapInh"], 16) == 0


def test_errors_as_callers_parse_them(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    runtime.write("nosuch")
    done = runtime(
        "--log",
        str(log),
        "--log-format",
        "json",
        "create",
        "-b",
        runtime.bundle,
        runtime.new_id(),
        check=False,
    )
    assert done.returncode == 1
    (line,) = [json.loads(text) for text in log.read_text().splitlines()]
    assert sorted(line) == ["level", "msg", "time"]
    assert line["level"] == "error"
    assert 'exec: "nosuch": executable file not found in $PATH' in line["msg"]
    assert line["msg"] in done.stderr
    assert runtime("list", "-q").stdout == ""


@pytest.mark.parametrize(
    ("damage", "path"),
    [
        ({"process": {"args": "sh"}}, "$.process.args"),
        ({"process": {"cwd": "relative"}}, "$.process.cwd"),
        ({"root": {"path": 7}}, "$.root.path"),
        ({"linux": {"namespaces": [{"type": "nosuch"}]}}, "$.linux.namespaces[0].type"),
        ({"hooks": {"prestart": [{"path": "relative"}]}}, "$.hooks.prestart[0].path"),
        ({"mounts": {}}, "$.mounts"),
    ],
)
def test_a_bad_spec_is_named_and_leaves_nothing(runtime: Runtime, damage: dict[str, Any], path: str) -> None:
    runtime.write("true", **damage)
    done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert (done.returncode, path in done.stderr) == (1, True), done.stderr
    assert runtime("list", "-q").stdout == ""


def test_an_id_is_taken_once_and_never_a_path(runtime: Runtime) -> None:
    container = runtime.create("sleep", "600")
    second = runtime("create", "-b", runtime.bundle, container, check=False)
    assert "container with given ID already exists" in second.stderr
    for bad in ("../x", "a/b", "..", ""):
        done = runtime("create", "-b", runtime.bundle, bad, check=False)
        assert (done.returncode, "invalid container ID format" in done.stderr) == (1, True)


@pytest.mark.cgroup
def test_damaged_state_can_be_listed_and_deleted(runtime: Runtime) -> None:
    container = runtime.create("sleep", "600")
    pid = runtime.state(container)["pid"]
    path = f"{runtime.root}/{container}/state.json"
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:20])
    assert runtime("list", "-q").returncode == 0
    assert runtime("state", container, check=False).returncode == 1
    Path(path).write_bytes(whole)
    runtime("delete", "--force", container)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.cgroup
def test_a_maker_killed_on_the_way_leaves_what_delete_removes(runtime: Runtime) -> None:
    os.makedirs(f"{runtime.root}/half", mode=0o700)
    assert runtime("state", "half", check=False).returncode == 1
    runtime("delete", "half")
    assert runtime("list", "-q").stdout == ""


def test_hooks_run_in_their_order_with_the_state(runtime: Runtime, tmp_path: Path) -> None:
    said = tmp_path / "said"

    def hook(name: str, **more: Any) -> list[dict[str, Any]]:
        script = f"read -r state; echo {name} $state >> {said}"
        return [{"path": "/bin/sh", "args": ["sh", "-c", script], **more}]

    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    hooks = {kind: hook(kind) for kind in kinds}
    inside = "read -r state; echo startContainer $state > /tmp/hook"
    hooks["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", inside]}]
    container = runtime.create("sleep", "600", hooks=hooks)
    lines = [line.split(" ", 1) for line in said.read_text().splitlines()]
    assert [name for name, _ in lines] == ["prestart", "createRuntime", "createContainer"]
    pid = runtime.state(container)["pid"]
    for _, text in lines:
        state = json.loads(text)
        assert (state["id"], state["status"], state["pid"]) == (container, "creating", pid)
    runtime("start", container)
    name, text = Path(runtime.bundle, "rootfs/tmp/hook").read_text().split(" ", 1)
    assert (name, json.loads(text)["status"]) == ("startContainer", "created")
    runtime("delete", "--force", container)
    assert [line.split()[0] for line in said.read_text().splitlines()][3:] == ["poststart", "poststop"]


@pytest.mark.cgroup
def test_a_failing_hook_ends_the_creation(runtime: Runtime) -> None:
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no way >&2; exit 4"]}]}
    runtime.write("true", hooks=hooks)
    done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert done.returncode == 1
    assert "exit status 4" in done.stderr
    assert "no way" in done.stderr
    assert runtime("list", "-q").stdout == ""


def test_a_failing_poststart_hook_ends_and_removes_the_container(runtime: Runtime, tmp_path: Path) -> None:
    said = tmp_path / "said"
    hooks = {
        "poststart": [{"path": "/bin/false"}, {"path": "/bin/touch", "args": ["touch", f"{said}-second"]}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {said}"]}],
    }
    container = runtime.create("sleep", "600", hooks=hooks)
    pid = runtime.state(container)["pid"]
    done = runtime("start", container, check=False)
    assert (done.returncode, "poststart hook #0" in done.stderr) == (1, True)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert runtime("list", "-q").stdout == ""
    assert json.loads(said.read_text())["status"] == "stopped"
    assert not Path(f"{said}-second").exists()


def test_a_hook_has_only_its_time(runtime: Runtime) -> None:
    hooks = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "300"], "timeout": 1}]}
    runtime.write("true", hooks=hooks)
    began = time.monotonic()
    done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert (done.returncode, "not done after 1 s" in done.stderr) == (1, True)
    assert time.monotonic() - began < patient(10)


def test_what_a_container_hook_mounts_is_in_the_container(runtime: Runtime) -> None:
    target = f"{runtime.bundle}/rootfs/www"
    script = f"mount -t tmpfs tmpfs {target} && echo from hook > {target}/note"
    hooks = {
        "createContainer": [
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin:/sbin"]}
        ]
    }
    runtime.write("cat", "/www/note", hooks=hooks)
    done = runtime("run", "-b", runtime.bundle, runtime.new_id())
    assert done.stdout == "from hook\n"
    assert os.listdir(target) == ["index.html"]


def test_the_terminal_goes_to_the_console_socket(runtime: Runtime, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        runtime.write("sh", "-c", "tty; exec sleep 600", process={"terminal": True})
        container = runtime.new_id()
        runtime("create", "-b", runtime.bundle, "--console-socket", str(tmp_path / "s"), container)
        with listener.accept()[0] as connection:
            _, (master,), _, _ = socket.recv_fds(connection, 100, 1)
    runtime("start", container)
    assert os.read(master, 100).decode().strip().startswith("/dev/pts/")
    os.close(master)


def test_a_terminal_without_anyone_to_take_it_is_refused(runtime: Runtime) -> None:
    runtime.write("true", process={"terminal": True})
    done = runtime("create", "-b", runtime.bundle, runtime.new_id(), check=False)
    assert (done.returncode, "without setting console socket" in done.stderr) == (1, True)


def test_descriptors_are_passed_when_asked_for_and_only_then(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("passed\n")
    runtime.write("sh", "-c", "cat <&3")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        argv = runtime.argv("run", "-b", runtime.bundle, *options, runtime.new_id())
        # a shell opens it as 3: this process has another file there
        shell = ["sh", "-c", f'exec "$@" 3< {tmp_path}/secret', "sh", *argv]
        return subprocess.run(shell, check=False, capture_output=True, text=True, timeout=30)

    assert run("--preserve-fds", "1").stdout == "passed\n"
    assert run().stdout == ""
    refused = run("--preserve-fds", "2")
    assert (refused.returncode, "descriptor 4 is not open" in refused.stderr) == (1, True)


@pytest.mark.cgroup
def test_limits_can_be_changed(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    runtime("update", "--memory", "64M", "--pids-limit", "33", container)
    stats = json.loads(runtime("events", "--stats", container).stdout)
    assert (stats["type"], stats["id"]) == ("stats", container)
    assert stats["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert stats["data"]["pids"] == {"current": 1, "limit": 33}
    with open(f"{runtime.bundle}/r.json", "w", encoding="ascii") as file:
        json.dump({"pids": {"limit": 44}}, file)
    runtime("update", "-r", f"{runtime.bundle}/r.json", container)
    stats = json.loads(runtime("events", "--stats", container).stdout)
    assert stats["data"]["pids"]["limit"] == 44
    assert stats["data"]["memory"]["usage"]["limit"] == 64 << 20


@pytest.mark.cgroup
def test_events_are_a_stream_until_the_container_ends(runtime: Runtime) -> None:
    limit = {"resources": {"memory": {"limit": 16 << 20}}}
    container = runtime.started(
        "sh",
        "-c",
        "while [ ! -e /tmp/go ]; do sleep 0.05; done; sh -c 'tail /dev/zero'; sleep 600",
        linux=limit,
    )
    command = runtime.argv("events", "--interval", "50ms", container)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
        try:
            assert stream.stdout is not None
            first = json.loads(stream.stdout.readline())
            assert (first["type"], first["id"]) == ("stats", container)
            assert first["data"]["memory"]["usage"]["limit"] == 16 << 20
            assert first["data"]["memory"]["raw"]
            Path(runtime.bundle, "rootfs/tmp/go").touch()
            seen = first
            while seen["type"] != "oom":  # the test's own time limit is how long it may take
                seen = json.loads(stream.stdout.readline())
            assert seen == {"type": "oom", "id": container}
            runtime("kill", container, "KILL")
            assert all(json.loads(line)["type"] in ("stats", "oom") for line in stream.stdout)
            assert stream.wait(60) == 0
        finally:
            stream.kill()


def test_a_filter_of_the_spec_is_enforced_also_on_execs(runtime: Runtime) -> None:
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    filtered = {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}}
    container = runtime.started("sleep", "600", linux=filtered)
    done = runtime("exec", container, "mkdir", "/tmp/d", check=False)
    assert "Function not implemented" in done.stderr
    assert runtime("exec", container, "true").returncode == 0


@pytest.mark.cgroup
def test_the_spec_it_writes_is_one_it_runs(runtime: Runtime) -> None:
    runtime("spec", "--bundle", runtime.bundle)
    again = runtime("spec", "--bundle", runtime.bundle, check=False)
    assert "config.json exists" in again.stderr
    path = Path(runtime.bundle, "config.json")
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=False, args=["echo", "it runs"])
    spec["process"].pop("rlimits")
    path.write_text(json.dumps(spec))
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == "it runs\n"


@pytest.mark.cgroup
def test_features_are_a_document_that_says_what_is_not_there(runtime: Runtime) -> None:
    document = json.loads(runtime("features").stdout)
    assert "createContainer" in document["hooks"]
    assert document["linux"]["cgroup"]["systemd"] is True
    assert document["linux"]["intelRdt"] == {"enabled": False}
    assert "time" in document["linux"]["namespaces"]


@pytest.mark.cgroup
def test_without_systemd_its_driver_says_so_and_nothing_stays(runtime: Runtime) -> None:
    for path, said in (("/a/path", "slice:prefix:name"), ("system.slice:box:none", "connect to systemd")):
        runtime.write("true", linux={"cgroupsPath": path})
        done = runtime("--systemd-cgroup", "create", "-b", runtime.bundle, runtime.new_id(), check=False)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert runtime("list", "-q").stdout == ""
    assert not any(
        os.path.exists(f"{tree.mountpoint}/system.slice/box-none.scope")
        for tree in runtime.box.layout.hierarchies
    )


def test_usage_errors(runtime: Runtime) -> None:
    assert runtime("nosuch", check=False).returncode == 3
    assert runtime("create", "--nosuch", "x", check=False).returncode == 1
    assert "requires exactly 1 argument(s)" in runtime("state", check=False).stderr
    assert runtime("--version").stdout.startswith("oakum version ")


def test_signals_of_the_caller_reach_the_command(runtime: Runtime, tmp_path: Path) -> None:
    runtime.write("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    argv = runtime.argv("run", "-b", runtime.bundle, runtime.new_id())
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        caller.send_signal(signal.SIGTERM)
        assert caller.wait(60) == 9
