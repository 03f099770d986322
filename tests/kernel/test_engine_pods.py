# SPDX-License-Identifier: Apache-2.0
"""Pods and containers on the real kernel, seen from inside: what they share, what they are kept from, how they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    DnsConfig,
    Mount,
    NamespaceOptions,
    SandboxConfig,
    SandboxMetadata,
    SecurityProfile,
)
from oakum.backend.status import ContainerFilter, SandboxFilter
from oakum.engine.spec import capabilities
from oakum.errors import (
    AlreadyExists,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    NotFound,
)
from tests.support.engines import HEED, SLEEP, Lab, together
from tests.support.leaks import cgroup_mounts
from tests.support.patience import eventually


@pytest.mark.cgroup
def test_the_life_of_a_pod(lab: Lab) -> None:
    pod = lab.cri.run_sandbox(lab.sandbox("life", labels={"app": "web"}))
    status = lab.cri.sandbox_status(pod)
    assert status.state == "ready"
    assert status.addresses[0] in lab.cri.list_sandboxes(SandboxFilter(labels={"app": "web"}))[0].addresses
    container = lab.cri.create_container(
        pod, lab.container("web", f"{HEED}; echo one; echo two >&2; {SLEEP}", labels={"a": "b"})
    )
    assert lab.cri.container_status(container).state == "created"
    lab.cri.start_container(container)
    running = lab.cri.container_status(container)
    assert running.state == "running"
    assert running.started_at_ns >= running.created_at_ns
    assert os.readlink(f"/proc/{running.pid}/exe") == "/bin/sh"
    eventually(lambda: len(list(lab.cri.logs(container))) == 2)
    assert {(line.stream, line.data) for line in lab.cri.logs(container)} == {
        ("stdout", b"one"),
        ("stderr", b"two"),
    }
    assert [c.id for c in lab.cri.list_containers(ContainerFilter(labels={"a": "b"}, state="running"))] == [
        container
    ]
    with pytest.raises(FailedPrecondition, match="started once"):
        lab.cri.start_container(container)

    lab.cri.stop_container(container, timeout_s=60)
    ended = lab.cri.container_status(container)
    assert (ended.state, ended.exit_code, ended.reason, ended.pid) == ("exited", 0, "Completed", 0)
    assert ended.finished_at_ns >= ended.started_at_ns
    lab.cri.stop_sandbox(pod)
    assert lab.cri.sandbox_status(pod).state == "not_ready"
    assert lab.cri.sandbox_status(pod).addresses == ()
    assert lab.cri.container_status(container).exit_code == 0
    lab.cri.remove_container(container)
    lab.cri.remove_sandbox(pod)

    context = lab.engine._context
    for path in (context.layout.bundle(container), context.layout.sandbox(pod), context.layout.pod(pod)):
        assert not os.path.exists(path)
    assert container not in context.snapshotter.containers()
    assert not any(os.path.exists(top + status.cgroup_path) for top in cgroup_mounts())
    assert pod not in {a.sandbox_id for a in context.network.attachments()}
    assert not set(context.locks.names()) & {pod, container}
    with pytest.raises(NotFound):
        lab.cri.container_status(container)


def test_what_is_gone_or_stopped_may_be_stopped_and_removed_again(lab: Lab) -> None:
    with lab.pod("again") as pod:
        container = lab.started(pod)
        for _ in range(2):
            lab.cri.stop_container(container, timeout_s=10)
        for _ in range(2):
            lab.cri.remove_container(container)
        for _ in range(2):
            lab.cri.stop_sandbox(pod)
        for _ in range(2):
            lab.cri.remove_sandbox(pod)
        lab.cri.stop_container(container, timeout_s=0)
        lab.cri.stop_sandbox(pod)


def test_removing_a_pod_takes_its_running_containers_along(lab: Lab) -> None:
    with lab.pod("along") as pod:
        pid = lab.cri.container_status(lab.started(pod)).pid
    assert not os.path.exists(f"/proc/{pid}")


def test_ids_by_their_beginning(lab: Lab) -> None:
    with lab.pod("begin") as pod:
        container = lab.started(pod)
        assert lab.cri.sandbox_status(pod[:13]).id == pod
        assert lab.cri.container_status(container[:13]).id == container
        assert (
            lab.cri.list_containers(ContainerFilter(id=container[:9], sandbox_id=pod[:9]))[0].id == container
        )
        assert lab.cri.find_container("c").id == container
        for nobody in ("f" * 64, "zzz"):
            with pytest.raises(NotFound):
                lab.cri.container_status(nobody)


def test_a_retry_joins_the_running_call_and_a_finished_one_is_reported(lab: Lab) -> None:
    config = lab.sandbox("retry")
    pods = together(4, lambda _: lab.cri.run_sandbox(config))
    made = {p for p in pods if isinstance(p, str)}
    assert len(made) == 1
    assert all(isinstance(p, (str, AlreadyExists)) for p in pods)
    (pod,) = made
    try:
        with pytest.raises(AlreadyExists, match=pod[:12]):
            lab.cri.run_sandbox(config)
        containers = together(4, lambda _: lab.cri.create_container(pod, lab.container("c")))
        assert len({c for c in containers if isinstance(c, str)}) == 1
        with pytest.raises(AlreadyExists):
            lab.cri.create_container(pod, lab.container("c"))
        (container,) = {c for c in containers if isinstance(c, str)}
        starts = together(3, lambda _: lab.cri.start_container(container))
        assert starts.count(None) >= 1
        assert all(s is None or isinstance(s, FailedPrecondition) for s in starts)
        assert lab.cri.container_status(container).state == "running"
    finally:
        lab.cri.remove_sandbox(pod)


def test_a_failed_pod_leaves_nothing(lab: Lab) -> None:
    before = set(os.listdir(lab.engine._context.layout.pods))
    with pytest.raises(NotFound):
        lab.cri.run_sandbox(lab.sandbox("failed", network="no-such-network"))
    assert set(os.listdir(lab.engine._context.layout.pods)) == before
    with lab.pod("failed"):
        pass  # the name is free again


def test_what_containers_of_a_pod_share(lab: Lab) -> None:
    with lab.pod("share", hostname="together") as pod:
        first = lab.started(pod, "one")
        second = lab.started(pod, "two")
        for kind in ("net", "ipc", "uts"):
            names = {lab.run(c, "readlink", f"/proc/self/ns/{kind}") for c in (first, second)}
            assert len(names) == 1
            assert names != {os.readlink(f"/proc/self/ns/{kind}") + "\n"}
        for kind in ("pid", "mnt"):
            assert len({lab.run(c, "readlink", f"/proc/self/ns/{kind}") for c in (first, second)}) == 2
        lab.run(first, "sh", "-c", "echo hello > /dev/shm/note; echo 1.2.3.4 other >> /etc/hosts")
        assert lab.run(second, "cat", "/dev/shm/note") == "hello\n"
        assert "1.2.3.4 other" in lab.run(second, "cat", "/etc/hosts")
        assert lab.run(second, "hostname") == "together\n"
        address = lab.cri.sandbox_status(pod).addresses[0]
        assert address in lab.run(first, "ip", "addr", "show", "eth0")
        assert any(
            line.split()[:1] == [address] and "together" in line
            for line in lab.run(first, "cat", "/etc/hosts").splitlines()
        )
        lab.run(first, "sh", "-c", "busybox httpd -p 8080 -h /www")
        assert lab.run(second, "wget", "-qO-", "http://127.0.0.1:8080/index.html")


def test_a_shared_pid_namespace(lab: Lab) -> None:
    modes = NamespaceOptions(pid="pod")
    with lab.pod("pids", namespaces=modes) as pod:
        first = lab.started(pod, "one", namespaces=modes)
        second = lab.started(pod, "two", namespaces=modes)
        assert lab.run(first, "readlink", "/proc/self/ns/pid") == lab.run(
            second, "readlink", "/proc/self/ns/pid"
        )
        assert lab.run(second, "sh", "-c", "ps | grep -c 'while :'").strip() not in ("0", "1")


def test_a_container_may_look_into_another_ones_processes(lab: Lab) -> None:
    with lab.pod("target") as pod:
        first = lab.started(pod, "one")
        second = lab.started(pod, "debug", namespaces=NamespaceOptions(pid="target", target_id=first))
        assert lab.run(first, "readlink", "/proc/self/ns/pid") == lab.run(
            second, "readlink", "/proc/self/ns/pid"
        )


def test_the_hosts_namespaces(lab: Lab) -> None:
    modes = NamespaceOptions(network="node", ipc="node", pid="node", uts="node")
    with lab.pod("host", namespaces=modes) as pod:
        container = lab.started(pod, namespaces=modes)
        for kind in ("net", "ipc", "uts", "pid"):
            assert lab.run(container, "readlink", f"/proc/self/ns/{kind}").strip() == os.readlink(
                f"/proc/self/ns/{kind}"
            )
        assert lab.run(container, "hostname").strip() == os.uname().nodename
        assert lab.cri.sandbox_status(pod).addresses == ()


def test_name_resolution_is_as_asked_for(lab: Lab) -> None:
    dns = DnsConfig(servers=("10.1.2.3",), searches=("a.example", "b.example"), options=("ndots:5",))
    text = lab.output("cat /etc/resolv.conf /etc/hostname", pod={"dns": dns, "hostname": "named"})
    assert "nameserver 10.1.2.3\n" in text
    assert "search a.example b.example\n" in text
    assert "options ndots:5\n" in text
    assert text.endswith("named\n")


def test_the_environment_and_the_directory(lab: Lab) -> None:
    text = lab.output("env; pwd", envs=(("A", "b c"),), working_dir="/not/there/yet", pod={"hostname": "h"})
    lines = text.splitlines()
    assert {"A=b c", "HOSTNAME=h", "HOME=/root", "PWD=/not/there/yet"} <= set(lines)
    assert any(line.startswith("PATH=") and "/bin" in line for line in lines)
    assert lines[-1] == "/not/there/yet"


def test_the_user_of_the_image(lab: Lab) -> None:
    with lab.pod("user") as pod:
        container = lab.started(
            pod, script=f"trap 'exit 4' USR1; id; pwd; echo $GREETING $HOME; {SLEEP}", image=lab.image("user")
        )
        eventually(lambda: len(list(lab.cri.logs(container))) == 3)
        lines = [line.data.decode() for line in lab.cri.logs(container)]
        assert lines[0].startswith("uid=1000(app) gid=50(staff)")
        assert lines[1:] == ["/made/for/it", "hello /home/app"]
        status = lab.cri.container_status(container)
        assert status.user is not None
        assert (status.user.uid, status.user.gid) == (1000, 50)
        assert status.stop_signal == "SIGUSR1"
        assert lab.run(container, "id", "-u").strip() == "1000"
        lab.cri.stop_container(container, timeout_s=60)
        assert lab.cri.container_status(container).exit_code == 4


def test_users_and_groups_that_the_caller_names(lab: Lab) -> None:
    merged = lab.output("id", image=lab.image("user"), user="app", supplemental_groups=(1234,))
    assert "77(extra)" in merged
    assert "1234" in merged
    strict = lab.output(
        "id", image=lab.image("user"), user="app", supplemental_groups=(1234,), strict_groups=True
    )
    assert "extra" not in strict
    assert "1234" in strict
    assert lab.output("id", user="4321:8765").startswith("uid=4321 gid=8765")


def test_an_ordinary_container_is_kept_from_the_host(lab: Lab) -> None:
    text = lab.output(
        "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; cat /proc/kcore | head -c 1 | wc -c;"
        "(echo 1 > /proc/sys/vm/swappiness) 2>&1; touch /sys/x 2>&1; mount -t tmpfs x /tmp 2>&1; ls /dev | tr '\\n' ' '",
        seccomp=SecurityProfile(),
        no_new_privs=True,
    )
    wanted = sum(1 << capabilities.ALL.index(name) for name in capabilities.DEFAULT)
    assert f"CapEff:\t{wanted:016x}" in text
    assert "Seccomp:\t2" in text
    assert "NoNewPrivs:\t1" in text
    assert "\n0\n" in text
    assert text.count("Read-only file system") == 2
    assert "permission denied" in text.lower() or "not permitted" in text
    assert set(text.splitlines()[-1].split()) >= {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "pts",
        "shm",
    }
    assert "kmsg" not in text.splitlines()[-1].split()


def test_no_seccomp_unless_asked_for_in_cri(lab: Lab) -> None:
    assert "Seccomp:\t0" in lab.output("grep Seccomp: /proc/self/status")


@pytest.mark.cgroup
def test_a_privileged_container(lab: Lab) -> None:
    text = lab.output(
        "grep CapEff /proc/self/status; mkdir -p /mnt && mount -t tmpfs x /mnt && echo mounted; ls /dev",
        pod={"privileged": True},
        privileged=True,
    )
    with open("/proc/self/status", encoding="ascii") as file:
        bounding = next(line.split()[1] for line in file if line.startswith("CapBnd"))
    assert f"CapEff:\t{bounding}" in text
    assert "mounted" in text
    assert "kmsg" in text.split()
    with pytest.raises(InvalidArgument, match="not privileged"):
        lab.output("true", privileged=True)


def test_a_read_only_root_with_what_may_be_written(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "rw").mkdir()
    (tmp_path / "ro").mkdir()
    text = lab.output(
        "touch /x 2>&1; touch /ro/x 2>&1; touch /rw/x && touch /t/x && echo fine; touch /made/x && echo made",
        readonly_rootfs=True,
        mounts=(
            Mount(container_path="/rw", host_path=str(tmp_path / "rw")),
            Mount(container_path="/ro", host_path=str(tmp_path / "ro"), readonly=True),
            Mount(container_path="/t", tmpfs=True),
            Mount(container_path="/made", host_path=str(tmp_path / "made/by/cri")),
        ),
    )
    assert text.count("Read-only file system") == 2
    assert "fine" in text
    assert (tmp_path / "rw/x").exists()
    assert (tmp_path / "made/by/cri/x").exists()


def test_volumes_of_the_image_begin_with_its_files(lab: Lab) -> None:
    with lab.pod("volumes") as pod:
        first = lab.started(pod, "one", image=lab.image("volumes"))
        second = lab.started(pod, "two", image=lab.image("volumes"))
        assert lab.run(first, "cat", "/data/seed") == "from the image\n"
        assert lab.run(first, "stat", "-c", "%a %u %g", "/data") == "750 7 8\n"
        assert lab.run(first, "stat", "-c", "%a %u %g", "/data/seed") == "640 7 8\n"
        lab.run(first, "sh", "-c", "echo changed > /data/seed; touch /empty/x")
        assert lab.run(second, "cat", "/data/seed") == "from the image\n"
        assert lab.run(second, "ls", "/empty") == ""
        assert " /data " in lab.run(first, "cat", "/proc/self/mounts")
        bundle = lab.engine._context.layout.bundle(first)
        assert sorted(os.listdir(f"{bundle}/volumes")) == ["0", "1", "2"]


def test_a_log_path_cannot_leave_the_pods_directory(lab: Lab) -> None:
    with lab.pod("escape") as pod, pytest.raises(InvalidArgument, match="out of"):
        lab.cri.create_container(pod, lab.container("c", log_path="../../etc/x"))


def test_what_a_container_needs_must_be_there(lab: Lab) -> None:
    with lab.pod("needs") as pod:
        with pytest.raises(ImageNotFound):
            lab.cri.create_container(pod, lab.container("c", image="no/such:image"))
        with pytest.raises(NotFound):
            lab.cri.create_container("f" * 64, lab.container("c"))
        lab.cri.stop_sandbox(pod)
        with pytest.raises(FailedPrecondition, match="not ready"):
            lab.cri.create_container(pod, lab.container("c"))


def standalone(lab: Lab, name: str, script: str, **fields: object) -> tuple[SandboxConfig, ContainerConfig]:
    sandbox = SandboxConfig(metadata=SandboxMetadata(name=name), owner="container")
    config = ContainerConfig(
        metadata=ContainerMetadata(name=name),
        image=lab.image("busybox"),
        command=("sh", "-c", script),
        **fields,  # type: ignore[arg-type]
    )
    return sandbox, config


def test_a_container_of_the_command_line(lab: Lab, tmp_path: Path) -> None:
    default = lab.engine.namespace("default")
    with pytest.raises(ImageNotFound):
        default.create_standalone(*standalone(lab, "web", "true"))
    default.pull_image(lab.image("busybox"))
    container = default.create_standalone(
        *standalone(lab, "web", "echo first; grep Seccomp: /proc/self/status; sleep 600")
    )
    try:
        with pytest.raises(AlreadyExists, match="web"):
            default.create_standalone(*standalone(lab, "web", "true"))
        with default.start_attached(container, stdin=False) as stream:
            data = b""
            while b"Seccomp" not in data:
                data += stream.recv(4096)
        assert b"first\n" in data
        assert b"Seccomp:\t2" in data
        assert default.find_container("web").id == container
        assert next(line.data for line in default.logs("web")) == b"first"
        with pytest.raises(NotFound):
            lab.cri.find_container("web")
        default.kill("web", signal.SIGKILL)
        assert default.wait("web").exit_code == 137
    finally:
        default.remove_container(container)
    assert default.list_sandboxes() == []
    with pytest.raises(NotFound, match="no such file"):
        default.create_standalone(
            *standalone(
                lab, "x", "true", mounts=(Mount(container_path="/x", host_path=str(tmp_path / "none")),)
            )
        )
    assert default.list_sandboxes() == []


def test_an_init_in_front_reaps(lab: Lab) -> None:
    default = lab.engine.namespace("default")
    default.pull_image(lab.image("busybox"))
    reaped = "while ps -o comm | grep -q sleep; do sleep 0.05; done"
    script = f"{HEED}; sh -c 'sleep 0.1 & exec sleep 0' & sleep 0.2; {reaped}; ps; echo done; {SLEEP}"
    container = default.create_standalone(*standalone(lab, "init", script, init=True))
    try:
        default.start_container(container)
        lines = default.logs(container, follow=True)
        seen: list[str] = []
        while "done" not in seen:
            seen.append(next(lines).data.decode())
        assert not any("Z" in line.split()[2:3] or "[sleep]" in line for line in seen)
        assert default.exec_sync(container, ["readlink", "/proc/1/exe"], timeout_s=60).stdout != b"/bin/sh\n"
        default.stop_container(container, timeout_s=60)
        assert default.container_status(container).exit_code == 0
    finally:
        default.remove_container(container)


def test_a_pod_without_a_network(lab: Lab) -> None:
    with lab.pod("alone", network="none") as pod:
        assert lab.cri.sandbox_status(pod).addresses == ()
        container = lab.started(pod)
        assert [
            line.split(":")[1].strip() for line in lab.run(container, "ip", "-o", "link").splitlines()
        ] == ["lo"]


def test_listing_many_asks_no_shim(lab: Lab) -> None:
    with lab.pod("many") as pod:
        made = [lab.cri.create_container(pod, lab.container(f"c{n}")) for n in range(40)]
        shim = lab.cri.sandbox_status(pod).shim_pid
        os.kill(shim, signal.SIGSTOP)  # whoever asked it would wait for ever
        try:
            assert {c.id for c in lab.cri.list_containers()} >= set(made)
        finally:
            os.kill(shim, signal.SIGCONT)
