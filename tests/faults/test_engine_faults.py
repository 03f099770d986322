# SPDX-License-Identifier: Apache-2.0
"""Engines killed at any moment: whoever comes next finds a consistent world, and what ran goes on.

A process of its own makes pods, containers and execs in a loop and is killed with SIGKILL after a time that
differs from round to round; then a fresh engine recovers, and what is on the machine is compared with its rows.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from oakum.backend.status import ContainerFilter
from oakum.engine import checkpoints
from oakum.engine.context import Context
from oakum.engine.engine import Engine
from oakum.engine.namespace import Namespace
from oakum.engine.store.records import ContainerRecord
from oakum.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from tests.conftest import Directories
from tests.support.engines import SLEEP, Lab, clear, laboratory
from tests.support.leaks import cgroup_mounts
from tests.support.patience import eventually
from tests.support.zygotes import end_zygote

# What the victim does, over and over. Each call may be the one that never returns.
VICTIM = """
import itertools, sys
from oakum.backend.config import *
from oakum.engine.engine import Engine
root, state, image, logs, only = sys.argv[1:6]
cri = Engine(root, state).namespace("k8s.io")
print("ready", flush=True)
for number in itertools.count():
    metadata = SandboxMetadata(name=f"v{number}", namespace="faults", uid=only)
    pod = cri.run_sandbox(SandboxConfig(metadata=metadata, log_directory=f"{logs}/{only}-{number}"))
    script = "trap 'echo ended; exit 7' TERM; echo begun; while :; do sleep 0.05; done"
    container = cri.create_container(pod, ContainerConfig(
        metadata=ContainerMetadata(name="c"), image=image, command=("sh", "-c", script), log_path="c.log"))
    cri.start_container(container)
    cri.exec_sync(container, ["true"], timeout_s=60)
    if number % 2:
        cri.stop_container(container, timeout_s=60)
        cri.remove_container(container)
        cri.stop_sandbox(pod)
        cri.remove_sandbox(pod)
"""


# One container of the command line, stopped and started over and over, its pod taken away now and then.
RESTARTS = """
import itertools, sys
from oakum.backend.config import *
from oakum.engine.engine import Engine
root, state, image, logs, name = sys.argv[1:6]
mine = Engine(root, state).namespace("k8s.io")
script = "echo x >> /kept; trap 'exit 7' TERM; while :; do sleep 0.05; done"
container = mine.create_standalone(
    SandboxConfig(metadata=SandboxMetadata(name=name), owner="container"),
    ContainerConfig(metadata=ContainerMetadata(name=name), image=image, command=("sh", "-c", script)))
print("ready", flush=True)
for number in itertools.count():
    mine.start_container(container)
    mine.stop_container(container, timeout_s=5)
    if number % 2:
        mine.stop_sandbox(mine.container_status(container).sandbox_id)
    mine.rearm_container(container)
"""


# A pod's checkpoint, made by a child that is killed before the nth line of pod_checkpoints, pause or resume. What CRIU
# would do is left out: few kernels let it. Says whether the child was killed.
CHECKPOINTS = """
import os, signal, sys
from oakum.engine import checkpoints, pod_checkpoints
from oakum.engine.engine import Engine
root, state, pod, place = sys.argv[1:5]

def dump(context, record, location, *, timeout_s=0):
    with open(location, "wb") as file:
        file.write(b"memory")

def killed_at(line):
    left = line
    def trace(frame, event, arg):
        nonlocal left
        where = frame.f_code
        if where.co_filename != pod_checkpoints.__file__ and where.co_name not in ("pause", "resume"):
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

checkpoints.dump = dump
for said in sys.stdin:
    child = os.fork()
    if not child:
        with Engine(root, state) as engine:
            sys.settrace(killed_at(int(said)))
            engine.namespace("k8s.io").checkpoint_sandbox(pod, place)
            sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}", flush=True)
"""


# As above, for what is around CRIU when a pod is restored; the container is started anew instead.
RESTORES = CHECKPOINTS.replace("checkpoint_sandbox(pod, place)", "restore_sandbox(place, None)")
RESTORES = RESTORES.replace("where.co_filename != pod_checkpoints.__file__", "where.co_filename not in FILES")
RESTORES = RESTORES.replace(
    "checkpoints.dump = dump\n",
    """
import msgspec
from oakum.engine import creation, half_restored, restores, unarchive
from oakum.engine.containers import Containers
FILES = [module.__file__ for module in (half_restored, restores, unarchive)]
def start_together(self, container_ids):
    for container_id in container_ids:
        record = msgspec.structs.replace(self.need(container_id), restored_from="")
        self._context.store.update_container(record)
        self.start(container_id)
        creation.forget_images(self._context, record)
checkpoints.problem = lambda: ""
Containers.start_together = start_together
""",
)


@pytest.fixture(scope="module")
def lab(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as made:
        yield made


def victim(lab: Lab, name: str, program: str = VICTIM) -> subprocess.Popen[bytes]:
    """A process that works on the lab's engine; it has begun."""
    arguments = [lab.engine.root, lab.engine.state, lab.image("busybox"), lab.logs, name]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@contextmanager
def another(lab: Lab) -> Iterator[Engine]:
    """A fresh engine. The lab's own lets go of its database meanwhile: SQLite keeps a file open in a process
    until nobody in it has it open any more, which would look like a leak."""
    lab.engine.close()
    try:
        with Engine(lab.engine.root, lab.engine.state) as fresh:
            yield fresh
    finally:
        lab.engine.recover_fully()  # and has it open again, as the test found it: also when that has failed


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def check_consistent(engine: Engine) -> None:
    """Compare what is on the machine with the rows; nothing may be there that no row explains."""
    context = engine._context
    store = context.store
    sandboxes = {record.id: record for record in store.sandboxes()}
    containers = {record.id: record for record in store.containers()}
    assert store.unsettled() == ([], [])
    live = {key for key, record in sandboxes.items() if record.phase == "ready"}
    assert set(os.listdir(context.layout.pods)) <= set(sandboxes)
    assert set(os.listdir(context.layout.sandboxes)) == set(sandboxes)
    assert set(os.listdir(context.layout.containers)) == set(containers)
    assert set(context.snapshotter.containers()) == set(containers)
    assert set(context.locks.names()) <= set(sandboxes) | set(containers)
    assert {a.sandbox_id for a in context.network.attachments()} == live
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        places = [line.split()[4] for line in file]
    pods = context.layout.pods
    mounted = {
        place.removeprefix(pods + "/").split("/")[0] for place in places if place.startswith(pods + "/")
    }
    assert mounted <= live
    assert not [place for place in places if place.startswith(engine.root + "/snapshots")]
    known = set(sandboxes) | set(containers)
    for top in cgroup_mounts():
        for pod in _listed(f"{top}/oakum/k8s.io"):
            if pod in sandboxes:
                assert set(_listed(f"{top}/oakum/k8s.io/{pod}")) <= known


def _listed(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if len(name) == 64]
    except FileNotFoundError:
        return []


def kept_by(cri: Namespace, container_id: str) -> bytes:
    return cri.exec_sync(container_id, ["head", "-c", "1", "/kept"], timeout_s=60).stdout


def check_behaves(lab: Lab, fresh: Engine) -> None:
    """Every container has a state that makes sense, logs, and can be stopped and removed."""
    cri = fresh.namespace("k8s.io")
    for status in cri.list_containers():
        if status.state == "running":
            try:
                said = cri.exec_sync(status.id, ["echo", "alive"], timeout_s=60).stdout
            except FailedPrecondition:
                said = b""
            if said != b"alive\n":
                # Its caller had asked for the stop, and the shim carries that out without him.
                assert cri.wait(status.id, timeout_s=60).exit_code == 7
            eventually(lambda key=status.id: [line.data for line in cri.logs(key)][:1] == [b"begun"])
            cri.stop_container(status.id, timeout_s=60)
            assert cri.container_status(status.id).exit_code == 7
            assert [line.data for line in cri.logs(status.id)] == [b"begun", b"ended"]
        else:
            assert status.state in ("created", "exited"), status
        if status.state == "created":
            cri.start_container(status.id)
            eventually(lambda key=status.id: [line.data for line in cri.logs(key)][:1] == [b"begun"])
    for sandbox in cri.list_sandboxes():
        cri.remove_sandbox(sandbox.id)
    check_consistent(fresh)
    assert fresh._context.store.sandboxes() == ()


@pytest.mark.timeout(900)
def test_an_engine_killed_at_any_moment_leaves_a_world_that_converges(lab: Lab) -> None:
    for turn in range(30):
        process = victim(lab, f"any{turn}")
        # Spread over the life of two pods, densely where the steps are short.
        time.sleep(0.004 * turn + 0.001 * (turn % 7))
        kill(process)
        with another(lab) as fresh:
            said = fresh.recover_fully()
            assert fresh.recover() == [], said
            check_consistent(fresh)
            check_behaves(lab, fresh)


@pytest.mark.timeout(600)
def test_a_container_on_its_way_back_is_never_lost(lab: Lab) -> None:
    for turn in range(8):
        process = victim(lab, f"back{turn}", RESTARTS)
        time.sleep(0.03 + 0.016 * turn)
        kill(process)
        with another(lab) as fresh:
            said = fresh.recover_fully()
            assert fresh.recover() == [], said
            check_consistent(fresh)
            cri = fresh.namespace("k8s.io")
            (status,) = cri.list_containers()
            cri.stop_container(status.id, timeout_s=10)
            cri.rearm_container(status.id)
            cri.start_container(status.id)
            eventually(lambda: kept_by(cri, status.id) == b"x")  # noqa: B023 - over before the next turn
            cri.remove_container(status.id)
            check_consistent(fresh)
            assert fresh._context.store.sandboxes() == ()


@pytest.mark.timeout(300)
def test_the_same_call_may_simply_be_made_again(lab: Lab) -> None:
    """What a kubelet does: it asks again, with the same names, and never calls recover itself."""
    for turn in range(8):
        process = victim(lab, f"again{turn}")
        time.sleep(0.01 + 0.006 * turn)
        kill(process)
        with another(lab) as fresh:
            cri = fresh.namespace("k8s.io")
            config = lab.sandbox("again")
            for _ in range(2):
                try:
                    pod = cri.run_sandbox(config)
                except AlreadyExists:
                    continue
                container = cri.create_container(pod, lab.container("c"))
                cri.start_container(container)
            for sandbox in cri.list_sandboxes():
                cri.remove_sandbox(sandbox.id)
            fresh.recover_fully()
            check_consistent(fresh)


def test_removal_cut_short_is_finished(lab: Lab) -> None:
    program = VICTIM.replace("if number % 2:", "if True:")
    for turn in range(8):
        process = victim(lab, f"removal{turn}", program)
        time.sleep(0.12 + 0.013 * turn)
        kill(process)
        with another(lab) as fresh:
            fresh.recover_fully()
            check_consistent(fresh)
            check_behaves(lab, fresh)


@pytest.mark.timeout(300)
def test_a_pod_checkpoint_killed_before_any_line_leaves_nothing_frozen_or_half(
    lab: Lab, tmp_path: Path
) -> None:
    with lab.pod("checkpoint") as pod:
        one, two = lab.started(pod, "one"), lab.started(pod, "two")
        lab.cri.pause(two)  # by somebody, who wants it so
        place = tmp_path / "pod"
        arguments = [lab.engine.root, lab.engine.state, pod, str(place)]
        with subprocess.Popen(
            [sys.executable, "-c", CHECKPOINTS, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for line in itertools.count(1):
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
                said = process.stdout.readline().strip()
                if line % 2 or said != "killed":
                    lab.engine.recover_fully()  # else the next try finds what this one left
                    lab.run(one, "true")
                    assert [lab.cri.container_status(key).state for key in (one, two)] == [
                        "running",
                        "paused",
                    ]
                    assert os.listdir(tmp_path) in ([], ["pod"])
                    assert not Path(lab.engine.root, "sandboxes", pod, "frozen.json").exists()
                if place.exists():
                    assert len(list(place.iterdir())) == 4
                    shutil.rmtree(place)
                if said != "killed":
                    assert said == "exit 0"
                    assert line > 30
                    break
        lab.cri.resume(two)


@pytest.mark.timeout(300)
def test_a_restored_pod_is_there_whole_or_not_at_all_wherever_its_maker_is_killed(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dump(context: Context, record: ContainerRecord, location: str, **_: object) -> str:
        diff = BytesIO()
        checkpoints.write_changes(diff, context.snapshotter.container_directory(record.id))
        with tarfile.open(location, "w") as tar:
            for name, data in (("rootfs-diff.tar", diff.getvalue()), ("checkpoint/core-1.img", b"memory")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
        return ""

    place = tmp_path / "saved"
    with lab.pod("restored") as pod:
        container = lab.started(pod, "one", f"echo kept >/kept; {SLEEP}")
        eventually(lambda: lab.run(container, "sh", "-c", "cat /kept || true") == "kept\n")
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "dump", dump)
            lab.cri.checkpoint_sandbox(pod, str(place))
    arguments = [lab.engine.root, lab.engine.state, "", str(place)]
    with subprocess.Popen(
        [sys.executable, "-c", RESTORES, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in itertools.count(1, 13):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            said = process.stdout.readline().strip()
            lab.engine.recover_fully()
            assert lab.engine.recover() == []
            for status in lab.cri.list_sandboxes():
                # its last lines are after the one by which it is whole
                (found,) = lab.cri.list_containers(ContainerFilter(sandbox_id=status.id))
                assert lab.run(found.id, "cat", "/kept") == "kept\n"
                assert not os.path.exists(f"{lab.cri.container_status(found.id).bundle_path}/checkpoint")
                lab.cri.remove_sandbox(status.id)
            check_consistent(lab.engine)
            if said != "killed":
                assert said == "exit 0"
                assert line > 50
                break


def test_containers_outlive_every_engine(lab: Lab) -> None:
    program = VICTIM + "    print(container, flush=True)\n    import time; time.sleep(60)\n"
    process = victim(lab, "outlive", program)
    assert process.stdout is not None
    container = process.stdout.readline().decode().strip()
    kill(process)
    with another(lab) as fresh:
        assert fresh.recover() == []
        cri = fresh.namespace("k8s.io")
        status = cri.container_status(container)
        assert status.state == "running"
        assert status.started_at_ns > 0
        eventually(lambda: list(cri.logs(container)), "the trap is set")
        os.kill(status.pid, signal.SIGTERM)
        assert cri.wait(container, timeout_s=60).exit_code == 7
        assert [line.data for line in cri.logs(container)] == [b"begun", b"ended"]
        cri.remove_sandbox(status.sandbox_id)


def test_a_start_whose_caller_died_is_found_out(lab: Lab) -> None:
    """Set the row back as a kill between the shim's answer and our transaction would leave it."""
    with lab.pod("found-out") as pod:
        context = lab.engine._context
        running = lab.started(pod, "running")
        waiting = lab.cri.create_container(pod, lab.container("waiting"))
        ended = lab.started(pod, "ended", "exit 3")
        lab.cri.wait(ended, timeout_s=60)
        for key in (running, waiting, ended):
            row = context.store.container(key)
            assert row is not None
            context.store.update_container(
                msgspec.structs.replace(row, phase="starting", pid=0, started_at_ns=0, exit=None, user=None)
            )
        said = lab.engine.recover()
        assert len(said) == 3
        assert lab.cri.container_status(running).state == "running"
        assert lab.cri.container_status(running).pid > 0
        assert lab.cri.container_status(waiting).state == "created"
        assert lab.cri.container_status(ended).exit_code == 3
        lab.cri.start_container(waiting)
        assert lab.cri.container_status(waiting).state == "running"
        assert lab.engine.recover() == []


def test_after_a_reboot_everything_has_ended(lab: Lab, tmp_path: Path) -> None:
    """A reboot takes the state directory and every process; the rows and the exit records stay."""
    pod = lab.cri.run_sandbox(lab.sandbox("reboot"))
    container = lab.started(pod)
    status = lab.cri.sandbox_status(pod)
    context = lab.engine._context
    row = context.store.sandbox(pod)
    assert row is not None
    os.kill(status.shim_pid, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{status.shim_pid}"))
    context.store.update_sandbox(
        msgspec.structs.replace(row, boot_id="the boot before", shim_pid=os.getpid())
    )
    assert lab.cri.sandbox_status(pod).state == "not_ready"
    assert any("shim is gone" in line for line in lab.engine.recover())
    assert lab.cri.container_status(container).exit_code == 255
    assert pod not in {a.sandbox_id for a in context.network.attachments()}
    lab.cri.remove_sandbox(pod)


def test_two_engines_recover_beside_each_other_and_beside_work(lab: Lab) -> None:
    process = victim(lab, "beside")
    try:
        deadline = time.monotonic() + 3
        with (
            Engine(lab.engine.root, lab.engine.state) as one,
            Engine(lab.engine.root, lab.engine.state) as two,
        ):
            while time.monotonic() < deadline:
                one.recover_fully()
                two.recover()
                assert process.poll() is None  # nobody took anything from the one who works
    finally:
        kill(process)
    with another(lab) as fresh:
        fresh.recover_fully()
        check_behaves(lab, fresh)


def _fill(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    room = os.fstatvfs(fd)
    os.posix_fallocate(fd, 0, os.fstat(fd).st_size + room.f_bavail * room.f_frsize)
    os.close(fd)


def test_a_full_disk_is_said_and_leaves_nothing_half_made(lab: Lab, tmp_path: Path) -> None:
    archive = str(tmp_path / "busybox.tar")
    lab.cri.export_images([lab.image("busybox")], archive)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "disk", str(disk)], check=True)
    try:
        with Engine(str(disk / "root"), lab.engine.state + "-full") as small:
            namespace = small.namespace("k8s.io")
            (image,) = namespace.import_images(archive)
            pod = namespace.run_sandbox(lab.sandbox("first"))
            for _ in range(2):
                _fill(disk / "filler")  # also what the engine has given back for those who remove
                with pytest.raises(ResourceExhausted):
                    namespace.create_container(pod, lab.container("c", image=image.id))
                _fill(disk / "filler")
                with pytest.raises(ResourceExhausted):
                    namespace.run_sandbox(lab.sandbox("second"))
            (disk / "filler").unlink()
            assert small.recover_fully() == []
            assert len(namespace.list_sandboxes()) == 1
            container = namespace.create_container(pod, lab.container("c", image=image.id))
            namespace.start_container(container)
            assert namespace.container_status(container).state == "running"
            namespace.remove_sandbox(pod)
            check_consistent(small)
            clear(small)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        end_zygote(lab.engine.state + "-full")
