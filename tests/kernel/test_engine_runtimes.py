# SPDX-License-Identifier: Apache-2.0
"""Pods on runtimes of other people, runc and crun: all that a user knows of a pod is as with our own, and nothing stays."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from oakum.backend.config import HugepageLimit, IdMapping, Mount, NamespaceOptions, Resources, SecurityProfile
from oakum.errors import (
    CommandNotRunnable,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    OakumError,
    Unimplemented,
)
from oakum.linux import mount
from oakum.oci.cgroups import detect_layout
from oakum.shim import frames
from tests.conftest import Directories
from tests.support.cri import container_config, pod_config
from tests.support.engines import HEED, SLEEP, Lab, laboratory
from tests.support.leaks import cgroup_mounts
from tests.support.patience import eventually
from tests.support.server import OakumServer

_MODE = detect_layout().mode
_BOTH = [pytest.param("runc", marks=pytest.mark.cgroup), pytest.param("crun", marks=pytest.mark.cgroup)]


# Runtimes that fail: a script, and what is said of it.
_BROKEN = {
    "mute": ("exit 1", "exit code 1, without a word"),
    "liar": ("exit 0", "pid file"),
    "talker": (
        """while [ "$1" != --log ]; do shift; done; echo '{"level":"error","msg":"my disk is full"}' > "$2"; exit 4""",
        "my disk is full",
    ),
    "half": ('runc "$@" || exit; case " $* " in *" create "*) exit 1;; esac', "exit code 1"),
    "killed": ("kill -9 $$", "killed by signal 9"),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Further handlers, name to path."""
    directory = tmp_path_factory.mktemp("programs")
    scripts = {name: f"#!/bin/sh\n{text}\n" for name, (text, _) in _BROKEN.items()}
    scripts |= {"stuck": '#!/bin/sh\nrunc "$@" || exit; case " $* " in *" create "*) exec sleep 600;; esac\n'}
    scripts |= {"silent": "#!/bin/sh\n[ $1 != features ]\n", "text": "no program", "going": "#!/bin/sh\n"}
    for name, text in scripts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return {name: f"{directory}/{name}" for name in (*scripts, "gone")}


@pytest.fixture(scope="module")
def lab(
    module_directories: Directories, programs: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("lab"), programs) as made:
        yield made


@pytest.fixture(params=_BOTH)
def handler(request: pytest.FixtureRequest) -> str:
    """Each of the two. Debian's crun refuses a host whose v2 tree has controllers beside v1."""
    name = str(request.param)
    if name == "crun" and _MODE == "hybrid":
        pytest.skip("kernel: cgroup v2 only")
    return name


class Traces(NamedTuple):
    """Where a pod could leave something, taken while it is there."""

    pod: str
    cgroup: str
    directory: str

    def all(self) -> list[str]:
        """What is there of it."""
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found = [line for line in file if self.pod in line]
        found += [top + self.cgroup for top in cgroup_mounts() if os.path.exists(top + self.cgroup)]
        return found + [path for path in (self.directory,) if os.path.exists(path)]


@contextmanager
def pod_of(lab: Lab, handler: str, name: str, **fields: Any) -> Iterator[str]:
    """A pod of a handler, of which nothing is left in the end."""
    pod = lab.cri.run_sandbox(lab.sandbox(name, **fields), runtime_handler=handler)
    traces = Traces(pod, lab.cri.sandbox_status(pod).cgroup_path, f"{lab.engine.state}/pods/{pod}")
    try:
        yield pod
    finally:
        lab.cri.remove_sandbox(pod)
    assert traces.all() == []


def text_of(lab: Lab, container: str) -> list[str]:
    return [f"{line.stream} {line.data.decode()}" for line in lab.cri.logs(container)]


def kept_by_runtime(lab: Lab, pod: str) -> set[str]:
    """The containers that the pod's runtime knows."""
    return set(os.listdir(f"{lab.engine.state}/pods/{pod}/runtime/state"))


# -- what a user sees ---------------------------------------------------------------------------------------------


def test_the_life_of_a_pod(lab: Lab, handler: str) -> None:
    script = f"{HEED}; echo one; echo two >&2; {SLEEP}".replace("exit 0", "exit 7")
    with pod_of(lab, handler, f"life-{handler}") as pod:
        assert lab.cri.sandbox_status(pod).runtime_handler == handler
        container = lab.started(pod, "c", script)
        assert kept_by_runtime(lab, pod) == {container}
        status = lab.cri.container_status(container)
        assert status.state == "running"
        # a runtime says so when the command is about to be executed
        eventually(lambda: os.readlink(f"/proc/{status.pid}/exe") == "/bin/sh")
        eventually(lambda: sorted(text_of(lab, container)) == ["stderr two", "stdout one"])

        ran = lab.cri.exec_sync(container, ["sh", "-c", "hostname; echo no >&2; exit 3"], timeout_s=60)
        assert (ran.exit_code, ran.stdout.decode(), ran.stderr) == (3, f"{pod[:12]}\n", b"no\n")
        with pytest.raises(CommandNotRunnable, match="nonesuch"):
            lab.cri.exec_sync(container, ["nonesuch"], timeout_s=60)
        _a_terminal_for_a_command(lab, container)
        kept = f"{lab.engine.state}/pods/{pod}/runtime/{container}"
        assert set(os.listdir(kept)) == {"config.json", "pid", "rootfs"}
        stats = lab.cri.container_stats(container)
        assert stats.pids > 0
        assert stats.memory is not None
        assert stats.memory.usage_bytes > 0

        lab.cri.stop_container(container, timeout_s=30)
        ended = lab.cri.container_status(container)
        assert (ended.state, ended.exit_code, ended.reason, ended.pid) == ("exited", 7, "Error", 0)
        eventually(lambda: not kept_by_runtime(lab, pod))
        lab.cri.remove_container(container)


def _a_terminal_for_a_command(lab: Lab, container: str) -> None:
    started = lab.cri.exec_start(
        container, ["sh", "-c", "stty size; tty; exit 5"], tty=True, rows=33, columns=44
    )
    try:
        assert started.console_fd is not None
        said = b""
        while b"pts" not in said:
            said += os.read(started.console_fd.fileno(), 4096)
        assert said.split()[:2] == [b"33", b"44"]
        assert started.wait(60).exit_code == 5
    finally:
        started.close()


def test_what_an_exec_left_running_ends_at_its_deadline(lab: Lab, handler: str) -> None:
    """Also what has left the process tree, as a daemon does."""
    with pod_of(lab, handler, f"late-{handler}") as pod:
        container = lab.started(pod)
        script = "(setsid sh -c 'sleep 1234.5 & exec sleep 1234.5' &); sleep 1234.5"
        with pytest.raises(DeadlineExceeded):
            lab.cri.exec_sync(container, ["sh", "-c", script], timeout_s=1)
        eventually(lambda: "1234.5" not in lab.run(container, "ps", "-o", "args"))
        assert lab.cri.container_status(container).state == "running"


def test_a_container_on_a_terminal(lab: Lab) -> None:
    with pod_of(lab, "runc", "terminal") as pod:
        container = lab.cri.create_container(
            pod, lab.container("c", "stty size; read word; echo got $word", tty=True, stdin=True)
        )
        stream = lab.cri.start_attached(container, stdin=True, rows=21, columns=43)
        with stream:
            eventually(lambda: text_of(lab, container))  # what is typed earlier is echoed before
            stream.sendall(frames.encode(frames.STDIN, b"it\n"))
            assert lab.cri.wait(container, timeout_s=60).exit_code == 0
        assert [line.data.rstrip(b"\r") for line in lab.cri.logs(container)] == [b"21 43", b"it", b"got it"]


def test_one_that_ignores_the_signal_is_killed_with_all_it_has(lab: Lab) -> None:
    script = "trap '' TERM; (setsid sleep 4321.5 &); echo up; while :; do sleep 0.05; done"
    with pod_of(lab, "runc", "stubborn") as pod:
        container = lab.started(pod, "c", script)
        eventually(lambda: text_of(lab, container) == ["stdout up"])
        began = time.monotonic()
        lab.cri.stop_container(container, timeout_s=0.5)
        assert time.monotonic() - began >= 0.5
        ended = lab.cri.container_status(container)
        assert (ended.exit_code, ended.reason) == (137, "Error")


def test_users_limits_and_the_filter_are_the_ones_asked_for(lab: Lab, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": '
        '[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}'
    )
    script = "id; echo $HOME; pwd; grep Seccomp: /proc/self/status; mkdir /tmp/x"
    with pod_of(lab, "runc", "asked") as pod:
        container = lab.started(
            pod,
            "c",
            f"{script}; {SLEEP}",
            image=lab.image("user"),
            supplemental_groups=(123,),
            seccomp=SecurityProfile(kind="localhost", localhost_ref=str(profile)),
            resources=Resources(
                memory_limit_bytes=64 << 20,
                pids_limit=50,
                oom_score_adj=300,
                hugepage_limits=(HugepageLimit(page_size="2MB", limit_bytes=4 << 20),),
            ),
            readonly_rootfs=True,
        )
        eventually(lambda: len(text_of(lab, container)) == 5)
        said = text_of(lab, container)
        assert re.search(r"uid=1000\(app\) gid=50\(staff\) groups=50\(staff\),77\(extra\),123", said[0])
        assert said[1:4] == ["stdout /home/app", "stdout /made/for/it", "stdout Seccomp:\t2"]
        assert said[4].endswith("not supported")
        assert lab.run(container, "id", "-G").split() == ["50", "77", "123"]
        user = lab.cri.container_status(container).user
        assert user is not None
        assert (user.uid, user.gid, set(user.supplemental_groups)) == (1000, 50, {50, 77, 123})
        pid = lab.cri.container_status(container).pid
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"
        assert limit_of(lab, container, "hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes") in {str(4 << 20), ""}
        lab.cri.update_container_resources(container, Resources(pids_limit=60))
        assert limit_of(lab, container, "pids.max") == "60"


def limit_of(lab: Lab, container: str, *files: str) -> str:
    """What one of these files of its group holds; "" where the kernel has none of them."""
    group = lab.cri.container_status(container).cgroup_path
    paths = [Path(f"{top}{group}/{file}") for top in cgroup_mounts() for file in files]
    return next((path.read_text().strip() for path in paths if path.exists()), "")


def test_out_of_memory_is_told(lab: Lab) -> None:
    with pod_of(lab, "runc", "oom") as pod:
        container = lab.started(
            pod,
            "c",
            "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
            resources=Resources(memory_limit_bytes=32 << 20),
        )
        lab.cri.wait(container, timeout_s=60)
        ended = lab.cri.container_status(container)
        assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


def test_containers_share_what_their_pod_shares(lab: Lab) -> None:
    modes = NamespaceOptions(pid="pod")
    with pod_of(lab, "runc", "shared", namespaces=modes) as pod:
        one = lab.started(pod, "one", namespaces=modes)
        two = lab.started(pod, "two", namespaces=modes)
        target = lab.started(pod, "target")
        debug = lab.started(pod, "debug", namespaces=NamespaceOptions(pid="target", target_id=target))
        for kind, members in (
            ("net", (one, two, target, debug)),
            ("pid", (one, two)),
            ("pid", (target, debug)),
        ):
            assert len({lab.run(c, "readlink", f"/proc/self/ns/{kind}") for c in members}) == 1
        assert lab.run(one, "readlink", "/proc/self/ns/pid") != lab.run(
            target, "readlink", "/proc/self/ns/pid"
        )
        lab.run(one, "sh", "-c", "echo hello > /dev/shm/note")
        assert lab.run(target, "cat", "/dev/shm/note") == "hello\n"
        lab.cri.stop_container(one, timeout_s=30)
        assert lab.cri.container_status(one).exit_code == 0


def test_mounts_made_in_a_shared_volume_come_out_and_no_others_do(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "volume"
    (place / "inner").mkdir(parents=True)
    mount.bind_file(str(place), str(place))
    mount.set_propagation(str(place), 1 << 20)  # MS_SHARED
    try:
        volume = Mount(host_path=str(place), container_path="/v", propagation="bidirectional")
        with pod_of(lab, "runc", "both-ways", privileged=True) as pod:
            lab.started(
                pod,
                "c",
                f"mount -t tmpfs inside /v/inner; touch /v/inner/made; mkdir /m; mount -t tmpfs x /m; {SLEEP}",
                privileged=True,
                mounts=(volume,),
            )
            eventually((place / "inner/made").exists)
            with open("/proc/self/mountinfo", encoding="utf-8") as file:
                # the runtime's own directory, the pod's memory and its namespaces: no root file system
                assert not [line for line in file if pod in line and " - overlay " in line]
    finally:
        while os.path.ismount(place / "inner"):
            mount.unmount(str(place / "inner"))
        mount.unmount(str(place))


# -- who is gone --------------------------------------------------------------------------------------------------


def test_a_killed_server_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    image = lab.image("busybox")
    server = OakumServer(lab.engine.root, lab.engine.state, str(tmp_path / "s"))
    server.__enter__()
    try:
        with server.client() as client:
            pod = client.run_pod(pod_config("outlives", str(tmp_path)), "runc")
            go = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo ended; exit 23"
            brief = client.create(pod, container_config("brief", image, "sh", "-c", f"mkdir -p /tmp; {go}"))
            stays = client.create(pod, container_config("stays", image, "sh", "-c", SLEEP))
            for container in (brief, stays):
                client.start(container)
        assert server.daemon is not None
        server.daemon.kill()
        lab.run(brief, "touch", "/tmp/go")
        eventually(lambda: lab.cri.container_status(brief).state == "exited")
        server.start()
        with server.client() as client:
            ended = client.status(brief).status
            assert (ended.state, ended.exit_code) == (pb.CONTAINER_EXITED, 23)
            assert "ended" in (tmp_path / "brief.log").read_text()
            assert client.exec(stays, "echo", "here").stdout == b"here\n"
            client.stop(stays, 30)
            assert client.status(stays).status.exit_code == 0
            handlers = {
                h.name: h.features for h in client.runtime.Status(pb.StatusRequest()).runtime_handlers
            }
            assert handlers["runc"].recursive_read_only_mounts
            assert not handlers["runc"].user_namespaces
            client.remove_pod(pod)
    finally:
        assert server.daemon is not None
        server.daemon.stop()
    assert not os.path.exists(f"{lab.engine.state}/pods/{pod}")


def test_a_killed_shim_leaves_nothing_of_its_runtime(lab: Lab) -> None:
    with pod_of(lab, "runc", "shimless") as pod:
        container = lab.started(pod)
        pid = lab.cri.container_status(container).pid
        os.kill(lab.cri.sandbox_status(pod).shim_pid, signal.SIGKILL)
        eventually(lambda: lab.cri.sandbox_status(pod).state == "not_ready")
        lab.engine.recover()
        assert not os.path.exists(f"/proc/{pid}")
        assert not os.path.exists(f"{lab.engine.state}/pods/{pod}/runtime")
        assert lab.cri.container_status(container).state == "exited"


# -- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _BROKEN)
def test_a_broken_runtime_says_so_and_leaves_nothing(lab: Lab, programs: dict[str, str], name: str) -> None:
    with pod_of(lab, name, f"broken-{name}") as pod:
        container = lab.cri.create_container(pod, lab.container("c"))
        with pytest.raises(OakumError, match=_BROKEN[name][1]) as caught:
            lab.cri.start_container(container)
        assert programs[name] in str(caught.value)
        status = lab.cri.container_status(container)
        assert (status.state, status.exit_code, status.reason) == ("exited", 128, "StartError")
        lab.cri.remove_container(container)
        left = os.walk(f"{lab.engine.state}/pods/{pod}/runtime")
        assert not [path for path, *names in left if container in str((path, names))]
        assert not [top for top in cgroup_mounts() if os.path.exists(top + status.cgroup_path)]


@pytest.mark.parametrize("who", ["pod", "shim"])
def test_a_runtime_that_hangs_holds_up_nobody(lab: Lab, who: str) -> None:
    """It has made the container, and does not come back."""
    with pod_of(lab, "stuck", f"stuck-{who}") as pod:
        container = lab.cri.create_container(pod, lab.container("c"))
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(lab.cri.start_container, container)
            pid_file = Path(f"{lab.engine.state}/pods/{pod}/runtime/{container}/pid")
            eventually(lambda: pid_file.exists() and pid_file.read_text())
            pid = int(pid_file.read_text())
            assert os.path.exists(f"/proc/{pid}")
            if who == "shim":
                os.kill(lab.cri.sandbox_status(pod).shim_pid, signal.SIGKILL)
            else:
                lab.cri.stop_sandbox(pod)
            with pytest.raises(OakumError):
                starting.result(timeout=60)
        lab.engine.recover()
        assert not os.path.exists(f"/proc/{pid}")
        assert lab.cri.container_status(container).state == "exited"


def test_programs_that_are_missing_or_cannot_be_executed(lab: Lab, programs: dict[str, str]) -> None:
    known = {h.name for h in lab.cri.runtime_status(verbose=False).handlers}
    assert {"", "oakum", "runc", "crun", "going"} <= known
    assert not known & {"mute", "killed", "text", "gone"}
    problems = "\n".join(lab.engine.handler_problems())
    assert f"gone: {programs['gone']}: no such file" in problems
    assert f"text: {programs['text']}: it does not run: Exec format error" in problems
    with pytest.raises(FailedPrecondition, match="gone: no such file"):
        lab.cri.run_sandbox(lab.sandbox("x"), runtime_handler="gone")
    with pytest.raises(InvalidArgument, match=r"none of this name.*oakum, runc"):
        lab.cri.run_sandbox(lab.sandbox("x"), runtime_handler="other")
    for name, why in (("text", "Exec format error"), ("going", "No such file or directory")):
        with pod_of(lab, name, f"pod-{name}") as pod:
            container = lab.cri.create_container(pod, lab.container("c"))
            if name == "going":
                os.unlink(programs[name])
            with pytest.raises(FailedPrecondition, match=why):
                lab.cri.start_container(container)


def test_commands_that_do_not_exist_or_cannot_be_executed(lab: Lab, handler: str) -> None:
    with pod_of(lab, handler, f"commands-{handler}") as pod:
        for command, code in (("nonesuch", 127), ("/etc/hosts", 126)):
            container = lab.cri.create_container(pod, lab.container(f"c{code}", command=(command,)))
            with pytest.raises(CommandNotRunnable):
                lab.cri.start_container(container)
            status = lab.cri.container_status(container)
            assert (status.state, status.exit_code, status.reason) == ("exited", code, "StartError")
        eventually(lambda: not kept_by_runtime(lab, pod))


def test_what_only_our_own_runtime_can_do_is_refused(lab: Lab, tmp_path: Path) -> None:
    lines = (IdMapping(host_id=200_000, container_id=0, length=65_536),)
    users = NamespaceOptions(user="pod", uid_mappings=lines, gid_mappings=lines)
    with pytest.raises(Unimplemented, match="users of its own"):
        lab.cri.run_sandbox(lab.sandbox("users", namespaces=users), runtime_handler="runc")
    below = Mount(host_path=str(tmp_path), container_path="/v", readonly=True, recursive_read_only=True)
    mapped = Mount(host_path=str(tmp_path), container_path="/v", uid_mappings=lines, gid_mappings=lines)
    features = {h.name: h for h in lab.cri.runtime_status(verbose=False).handlers}
    assert [features[name].recursive_read_only_mounts for name in ("runc", "silent")] == [True, False]
    assert not features["runc"].user_namespaces
    for each, why in ((below, "does not say"), (mapped, "maps the ids")):
        with pod_of(lab, "silent", "refused") as pod, pytest.raises(Unimplemented, match=why):
            lab.cri.create_container(pod, lab.container("c", mounts=(each,)))
    with pod_of(lab, "runc", "below") as pod:
        container = lab.started(pod, mounts=(below,))
        assert "Read-only" in lab.run(container, "sh", "-c", "touch /v/x 2>&1 || true")
