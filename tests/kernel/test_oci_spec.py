# SPDX-License-Identifier: Apache-2.0
"""What the runtime-spec demands and no other test shows; docs/runtime-spec.md says which test shows what."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.oci_box import NAMESPACES
from tests.kernel.oci_cli_box import Runtime
from tests.support.patience import eventually

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def runs(runtime: Runtime, script: str, **changes: Any) -> str:
    runtime.write("sh", "-c", script, **changes)
    return runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout


def shell(script: str) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}


def groups(runtime: Runtime, path: str) -> list[str]:
    """The control groups of that name that are there."""
    found = [f"{tree.mountpoint}{path}" for tree in runtime.box.layout.hierarchies]
    return [group for group in found if os.path.isdir(group)]


# -- runtime.md ----------------------------------------------------------------------------------------------------


def test_the_state_has_every_member_in_every_status(runtime: Runtime) -> None:
    container = runtime.create("sleep", "600", annotations={"org.example.key": "value"})
    for status, step in (("created", "start"), ("running", "kill"), ("stopped", "")):
        state = runtime.state(container)
        assert (state["ociVersion"], state["id"], state["status"]) == ("1.3.0", container, status)
        assert state["bundle"] == runtime.bundle
        assert state["annotations"] == {"org.example.key": "value"}
        assert (state["pid"] > 0) is (status != "stopped")
        if step:
            runtime(step, container, *(["KILL"] if step == "kill" else []))
            wanted = {"start": "running", "kill": "stopped"}[step]
            eventually(lambda wanted=wanted: runtime.state(container)["status"] == wanted)


def test_a_bundle_by_a_relative_path_is_known_by_its_absolute_one(program: Runtime) -> None:
    program.write("sleep", "600")
    container = program.new_id()
    program("create", "-b", "bundle", container, cwd=program.directory)
    assert program.state(container)["bundle"] == program.bundle


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


def test_a_bundle_without_its_file_is_an_error(runtime: Runtime) -> None:
    done = runtime("create", "-b", runtime.bundle, "bad", check=False)
    assert (done.returncode, "config.json not found" in done.stderr) == (1, True)
    assert runtime("create", "-b", f"{runtime.bundle}/nosuch", "bad", check=False).returncode == 1


def test_later_changes_of_the_bundle_mean_nothing(runtime: Runtime) -> None:
    hooks = {"poststop": [shell(f"touch {runtime.directory}/first")]}
    container = runtime.create("sh", "-c", "echo first > /tmp/said; exec sleep 600", hooks=hooks)
    later = {"poststop": [shell(f"touch {runtime.directory}/later")]}
    runtime.write("sh", "-c", "echo later > /tmp/said", hooks=later)
    runtime("start", container)
    said = Path(runtime.bundle, "rootfs/tmp/said")
    assert eventually(lambda: said.exists() and said.read_text()) == "first\n"
    os.unlink(f"{runtime.bundle}/config.json")
    runtime("delete", "--force", container)
    assert (runtime.directory / "first").exists()
    assert not (runtime.directory / "later").exists()


@pytest.mark.parametrize("kind", HOOKS[:5])
def test_a_hook_that_fails_ends_the_container_and_its_poststop_hooks_run(runtime: Runtime, kind: str) -> None:
    gone = runtime.directory / "gone"
    hooks = {kind: [{"path": "/bin/false"}], "poststop": [shell(f"touch {gone}")]}
    path = f"/oakum-test-{os.getpid()}/hooks"
    runtime.write("sleep", "600", hooks=hooks, linux={"cgroupsPath": path})
    container = runtime.new_id()
    done = runtime("create", "-b", runtime.bundle, container, check=False)
    if kind in ("startContainer", "poststart"):
        assert done.returncode == 0, done.stderr
        done = runtime("start", container, check=False)
    assert (done.returncode, f"{kind} hook #0 /bin/false" in done.stderr) == (1, True), done.stderr
    if kind == "startContainer":
        assert runtime.state(container)["status"] == "stopped"
        runtime("delete", container)
    assert gone.exists()
    assert runtime("list", "-q").stdout == ""
    assert groups(runtime, path) == []


def test_a_poststop_hook_that_fails_is_said_and_the_others_run(runtime: Runtime) -> None:
    last = runtime.directory / "last"
    container = runtime.create("true", hooks={"poststop": [{"path": "/bin/false"}, shell(f"touch {last}")]})
    done = runtime("delete", "--force", container)
    assert "level=warning" in done.stderr
    assert "poststop hook #0" in done.stderr
    assert last.exists()
    assert runtime("list", "-q").stdout == ""


def test_hooks_of_a_kind_run_in_their_order_and_where_they_belong(runtime: Runtime) -> None:
    said = runtime.directory / "said"
    kinds = [k for k in HOOKS if k != "startContainer"]
    namespaces = "$(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/uts)"
    hooks = {kind: [shell(f"echo {kind} {n} {namespaces} >> {said}") for n in (1, 2)] for kind in kinds}
    hooks["startContainer"] = [shell("readlink /proc/self/ns/mnt > /tmp/inside")]
    container = runtime.create("sleep", "600", hooks=hooks)
    own = [os.readlink(f"/proc/{runtime.state(container)['pid']}/ns/{kind}") for kind in ("mnt", "uts")]
    runtime("start", container)
    runtime("delete", "--force", container)
    lines = [line.split() for line in said.read_text().splitlines()]
    assert [(kind, number) for kind, number, *_ in lines] == [(k, n) for k in kinds for n in ("1", "2")]
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "uts")]
    for kind, _, *where in lines:
        assert where == (own if kind == "createContainer" else ours), kind
    assert Path(runtime.bundle, "rootfs/tmp/inside").read_text().strip() == own[0]


def test_a_created_container_can_be_killed_and_every_signal_arrives(runtime: Runtime) -> None:
    container = runtime.create("sleep", "600")
    runtime("kill", container, "KILL")
    eventually(lambda: runtime.state(container)["status"] == "stopped")
    said = Path(runtime.bundle, "rootfs/tmp/signals")
    traps = "; ".join(f"trap 'echo {name} >> /tmp/signals' {name}" for name in ("USR1", "HUP", "WINCH"))
    other = runtime.started("sh", "-c", f"{traps}; echo ready >> /tmp/signals; while :; do sleep 0.05; done")
    eventually(lambda: said.exists() and "ready" in said.read_text())
    for number, name in enumerate(("USR1", "SIGHUP", "28")):
        runtime("kill", other, name)
        eventually(lambda number=number: len(said.read_text().splitlines()) == number + 2)
    assert said.read_text().split() == ["ready", "USR1", "HUP", "WINCH"]


@pytest.mark.cgroup
def test_delete_takes_what_create_made_and_nothing_else(runtime: Runtime) -> None:
    volume = runtime.directory / "volume"
    volume.mkdir()
    (volume / "file").write_text("kept")
    path = f"/oakum-test-{os.getpid()}/delete"
    owner = runtime.create("sleep", "600")
    network = f"/proc/{runtime.state(owner)['pid']}/ns/net"
    others = [{"type": kind} for kind in NAMESPACES if kind != "network"]
    linux = {"cgroupsPath": path, "namespaces": [*others, {"type": "network", "path": network}]}
    mounts = [
        *runtime.write("true")["mounts"],
        {"destination": "/v", "type": "bind", "source": str(volume), "options": ["bind"]},
    ]
    runtime.write("sh", "-c", "echo more > /v/more; exec sleep 600", mounts=mounts, linux=linux)
    container = runtime.new_id()
    runtime("create", "-b", runtime.bundle, container)
    assert groups(runtime, path)
    runtime("start", container)
    eventually((volume / "more").exists)
    runtime("delete", "--force", container)
    assert groups(runtime, path) == []
    assert not os.path.exists(f"{runtime.root}/{container}")
    assert sorted(os.listdir(volume)) == ["file", "more"]
    assert runtime.state(owner)["status"] == "created"
    assert os.path.exists(network)


# -- config.md and config-linux.md ---------------------------------------------------------------------------------


def test_a_namespace_by_path_is_the_one_and_has_to_be_of_its_type(runtime: Runtime) -> None:
    owner = runtime.create("sleep", "600")
    pid = runtime.state(owner)["pid"]
    others = [{"type": kind} for kind in NAMESPACES if kind != "ipc"]
    shown = runs(
        runtime,
        "readlink /proc/self/ns/ipc",
        linux={"namespaces": [*others, {"type": "ipc", "path": f"/proc/{pid}/ns/ipc"}]},
    )
    assert shown.strip() == os.readlink(f"/proc/{pid}/ns/ipc")
    for path in (f"/proc/{pid}/ns/net", "/etc/passwd", "/nosuch"):
        runtime.write("true", linux={"namespaces": [*others, {"type": "ipc", "path": path}]})
        done = runtime("create", "-b", runtime.bundle, "bad", check=False)
        assert (done.returncode, "ipc" in done.stderr) == (1, True), done.stderr


def test_a_namespace_that_is_not_listed_is_the_runtimes_own(runtime: Runtime) -> None:
    listed = [{"type": kind} for kind in ("mount", "pid")]
    spec = runtime.write("true")
    mounts = [m for m in spec["mounts"] if m["destination"] not in ("/dev/mqueue",)]
    spec.pop("hostname")
    kinds = {"ipc": "ipc", "uts": "uts", "net": "network"}
    runtime.write(
        "sh",
        "-c",
        "for k in ipc uts net; do readlink /proc/self/ns/$k; done",
        mounts=mounts,
        hostname="",
        linux={"namespaces": listed},
    )
    done = runtime("run", "-b", runtime.bundle, runtime.new_id())
    assert done.stdout.split() == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]


def test_a_device_in_the_place_of_another_file_is_an_error(runtime: Runtime) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    device = {"path": "/dev-of-mine", "type": "c", "major": 1, "minor": 3}
    (rootfs / "dev-of-mine").write_text("a file")
    runtime.write("true", linux={"devices": [device]})
    done = runtime("create", "-b", runtime.bundle, "bad", check=False)
    assert (done.returncode, "device /dev-of-mine (c 1:3)" in done.stderr) == (1, True), done.stderr
    (rootfs / "dev-of-mine").unlink()
    os.mknod(rootfs / "dev-of-mine", 0o020666, os.makedev(1, 3))
    runs(runtime, "true", linux={"devices": [device]})


@pytest.mark.cgroup
def test_one_cgroups_path_is_one_place(runtime: Runtime) -> None:
    path = f"/oakum-test-{os.getpid()}/one/place"
    for _ in range(2):
        container = runtime.create("sleep", "600", linux={"cgroupsPath": path})
        text = Path(f"/proc/{runtime.state(container)['pid']}/cgroup").read_text()
        assert {line.split(":", 2)[2] for line in text.splitlines() if line} >= {path}
        runtime("delete", "--force", container)
    for tree in runtime.box.layout.hierarchies:
        subprocess.run(
            ["rmdir", f"{tree.mountpoint}/oakum-test-{os.getpid()}/one"], check=False, capture_output=True
        )


def test_propagation_of_the_root(runtime: Runtime) -> None:
    for propagation, flag in (
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("private", ""),
        ("unbindable", "unbindable"),
    ):
        shown = runs(
            runtime,
            "grep ' / / ' /proc/self/mountinfo || head -1 /proc/self/mountinfo",
            linux={"rootfsPropagation": propagation},
        )
        assert (flag in shown) if flag else ("shared:" not in shown), (propagation, shown)


def test_members_that_contradict_each_other_are_refused(runtime: Runtime) -> None:
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}
    limit = {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}
    ids = [{"containerID": 0, "hostID": 0, "size": 1}]
    volume = {"destination": "/v", "type": "bind", "source": "/etc"}
    for named, changes in (
        ("$.linux.seccomp.syscalls[0].errnoRet", {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}}}),
        ("$.linux.seccomp.defaultErrnoRet", {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}}}),
        ("$.process.rlimits[1].type", {"process": {"rlimits": [limit, limit]}}),
        ("$.linux.namespaces[1].type", {"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}),
        ("$.mounts[0].uidMappings", {"mounts": [{**volume, "uidMappings": ids}]}),
        ("$.mounts[0].uidMappings", {"mounts": [{**volume, "options": ["bind", "idmap"]}]}),
        ("$.linux.devices[0].minor", {"linux": {"devices": [{"path": "/d", "type": "b", "major": 1}]}}),
    ):  # fmt: skip
        runtime.write("true", **changes)
        done = runtime("create", "-b", runtime.bundle, "bad", check=False)
        assert (done.returncode, f" {named}: " in done.stderr) == (1, True), done.stderr


def test_what_the_specification_wants_passed_over_is(runtime: Runtime) -> None:
    # unknown members and annotations, and the size of a terminal that there is not
    process = {"terminal": False, "consoleSize": {"height": 1 << 40, "width": 1 << 40}, "nosuch": 1}
    changes = {"process": process, "nosuch": {"at": "all"}, "annotations": {"no.such.annotation": "value"}}
    assert runs(runtime, "echo fine", **changes) == "fine\n"


def test_security_labels_of_mounts_reach_the_kernel(runtime: Runtime) -> None:
    runtime.write("true", linux={"mountLabel": "system_u:object_r:container_file_t:s0"})
    done = runtime("run", "-b", runtime.bundle, runtime.new_id(), check=False)
    if not os.path.isdir("/sys/fs/selinux"):
        assert (done.returncode, "context" in done.stderr) == (1, True), done.stderr


def test_the_process_has_its_limits_and_the_score_of_the_caller_unless_it_says_otherwise(
    runtime: Runtime,
) -> None:
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    shown = runs(
        runtime,
        "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj",
        process={"rlimits": limits},
    )
    assert shown.split() == ["100", "200", "0", Path("/proc/self/oom_score_adj").read_text().strip()]


def test_the_state_given_to_hooks_is_the_containers(runtime: Runtime) -> None:
    said = runtime.directory / "said"
    container = runtime.create(
        "sleep", "600", hooks={"createRuntime": [shell(f"cat > {said}")]}, annotations={"a": "b"}
    )
    state = json.loads(said.read_text())
    assert (state["id"], state["bundle"], state["annotations"]) == (container, runtime.bundle, {"a": "b"})
    assert (state["status"], state["pid"]) == ("creating", runtime.state(container)["pid"])
