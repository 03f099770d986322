# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a pod's container: an archive where CRIU works with the kernel, else its own reason everywhere."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oakum.backend.config import Mount, Resources, SecurityProfile
from oakum.engine import checkpoints
from oakum.errors import FailedPrecondition, InvalidArgument, Unimplemented
from tests.conftest import Directories
from tests.support.checkpoints import checkpoint_image
from tests.support.engines import Lab, laboratory
from tests.support.patience import eventually

COUNT = (
    "rm /etc/group; ln -s /proc/1/root /trap; trap 'exit 7' TERM; n=0;"
    " while :; do n=$((n+1)); echo $n >/count; echo $n; sleep 0.05; done"
)
WITH_HANDLER = (
    "rm /etc/group; trap 'exit 7' TERM; n=0;"
    " while :; do n=$((n+1)); echo $n >/data/count; echo $n; sleep 0.05; done"
)
AS_USER = "n=0; while :; do n=$((n+1)); echo $n >/data/count; echo $n; sleep 0.05; done"


@pytest.fixture(scope="module")
def lab(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("registry")) as made:
        yield made


def counted(lab: Lab, container: str) -> int:
    return int(lab.run(container, "sh", "-c", "cat /data/count /count || echo 0").split("\n")[0].strip() or 0)


def logged(lab: Lab, container: str) -> list[int]:
    return [int(line.data) for line in lab.cri.logs(container)]


@pytest.mark.cgroup
def test_a_container_is_written_to_disk_and_runs_on(lab: Lab, tmp_path: Path) -> None:
    if why := checkpoints.problem():
        pytest.skip(f"kernel: CRIU cannot work with it: {why}")
    with lab.pod("saved") as pod:
        container = lab.started(pod, script=COUNT)
        eventually(lambda: counted(lab, container) > 3)
        location = tmp_path / "checkpoint.tar"
        lab.cri.checkpoint_container(container, str(location), timeout_s=60)
        assert location.stat().st_mode & 0o777 == 0o600
        assert os.listdir(tmp_path) == ["checkpoint.tar"]
        with tarfile.open(location) as tar:
            names = set(tar.getnames())
            assert {"checkpoint/inventory.img", "spec.dump", "config.dump", "dump.log"} <= names
            config = tar.extractfile("config.dump")
            changes = tar.extractfile("rootfs-diff.tar")
            gone = tar.extractfile("deleted.files")
            assert config
            assert changes
            assert gone
            assert json.load(config)["id"] == container
            assert "etc/group" in json.load(gone)
            with tarfile.open(fileobj=io.BytesIO(changes.read())) as inner:
                assert inner.getmember("trap").linkname == "/proc/1/root"
                count = inner.extractfile("count")
                assert count
                assert int(count.read() or 1) > 0
        at = counted(lab, container)
        eventually(lambda: counted(lab, container) > at)
        assert not os.path.exists(f"{lab.cri.container_status(container).bundle_path}/checkpoint")


def test_what_cannot_be_written_is_refused_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    with lab.pod("refused") as pod:
        container = lab.started(pod)
        for location in ("relative.tar", f"{tmp_path}/", f"{tmp_path}/none/x.tar", ""):
            with pytest.raises(InvalidArgument, match="location"):
                lab.cri.checkpoint_container(container, location, timeout_s=0)
        terminal = lab.started(pod, "t", tty=True)
        with pytest.raises(Unimplemented, match="terminal"):
            lab.cri.checkpoint_container(terminal, f"{tmp_path}/x.tar", timeout_s=0)
        ended = lab.started(pod, "e", "exit 0")
        eventually(lambda: lab.cri.container_status(ended).state == "exited")
        with pytest.raises(FailedPrecondition):
            lab.cri.checkpoint_container(ended, f"{tmp_path}/x.tar", timeout_s=0)
        assert os.listdir(tmp_path) == []


def test_status_says_what_a_checkpoint_would(lab: Lab, tmp_path: Path) -> None:
    info = json.loads(lab.cri.runtime_status(verbose=True).info["config"])
    why = checkpoints.problem()
    assert info["checkpoints"] == (why or "yes")
    with lab.pod("status") as pod:
        container = lab.started(pod)
        if why:
            with pytest.raises(Unimplemented) as caught:
                lab.cri.checkpoint_container(container, f"{tmp_path}/x.tar", timeout_s=0)
            assert why in str(caught.value)
            assert lab.cri.container_status(container).state == "running"
            assert os.listdir(tmp_path) == []
        else:
            lab.cri.checkpoint_container(container, f"{tmp_path}/x.tar", timeout_s=0)


@pytest.mark.cgroup
def test_a_pod_is_written_at_one_moment_and_goes_on_there_and_in_a_new_pod(lab: Lab, tmp_path: Path) -> None:
    if why := checkpoints.problem():
        pytest.skip(f"kernel: CRIU cannot work with it: {why}")
    for directory in ("volume", "other"):
        (tmp_path / directory).mkdir(mode=0o777)
        (tmp_path / directory).chmod(0o777)
    data = Mount(container_path="/data", host_path=str(tmp_path / "volume"))
    plain: dict[str, Any] = {
        "user": "1000:1000",
        "no_new_privs": True,
        "seccomp": SecurityProfile(),
        "mounts": (data,),
    }
    saved = tmp_path / "pod"
    with lab.pod("before") as pod:
        before = {"one": lab.started(pod, "one", COUNT), "two": lab.started(pod, "two", AS_USER, **plain)}
        lab.run(before["one"], "sh", "-c", "echo kept >/dev/shm/memory")
        for container in before.values():
            eventually(lambda key=container: counted(lab, key) > 3)
        lab.cri.checkpoint_sandbox(pod, str(saved))
        assert saved.stat().st_mode & 0o777 == 0o700
        facts = json.loads((saved / "pod.json").read_text())
        assert facts["id"] == pod
        archives = {c["name"]: c["archive"]["name"] for c in facts["containers"]}
        assert set(os.listdir(saved)) == {"pod.json", "pod.seal", ".shm.tar", *archives.values()}
        assert set(archives) == {"one", "two"}
        for archive in archives.values():
            with tarfile.open(saved / archive) as tar:
                assert {"checkpoint/inventory.img", "rootfs-diff.tar"} <= set(tar.getnames())
        for container in before.values():
            at = counted(lab, container)
            eventually(lambda key=container, least=at: counted(lab, key) > least)

    # what runs already has its command: nothing is left of the try
    changed = lab.container("one", "true")
    with pytest.raises(InvalidArgument, match="command"):
        lab.cri.restore_sandbox(str(saved), lab.sandbox("after"), container_configs=[changed])
    assert not lab.cri.list_sandboxes()

    moved = msgspec.structs.replace(data, host_path=str(tmp_path / "other"))
    again = lab.container("two", AS_USER, **{**plain, "mounts": (moved,)})
    again = msgspec.structs.replace(again, labels={"new": "yes"}, resources=Resources(pids_limit=99))
    wanted = lab.sandbox("after", sysctls={"kernel.msgmax": "9999"})
    restored = lab.cri.restore_sandbox(str(saved), wanted, container_configs=[again])
    try:
        assert restored.sandbox_id != pod
        after = dict(restored.containers)
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        for container in after.values():
            assert lab.cri.container_status(container).state == "running"
            eventually(lambda key=container: len(logged(lab, key)) > 3)
            lines = logged(lab, container)
            # it goes on counting, beyond the beginning, and every number is logged once
            assert lines[0] > 3
            assert lines == list(range(lines[0], lines[0] + len(lines)))
        one, two = after["one"], after["two"]
        address = lab.cri.sandbox_status(restored.sandbox_id).addresses[0]
        script = "test -e /etc/group || cat /dev/shm/memory; hostname; cat /proc/sys/kernel/msgmax; ip addr; cat /etc/hosts"
        seen = lab.run(one, "sh", "-c", script)
        assert seen.splitlines()[:3] == ["kept", restored.sandbox_id[:12], "9999"]
        assert seen.count(address) == 2
        assert lab.run(two, "id", "-u") == "1000\n"
        assert (tmp_path / "other/count").exists()
        assert lab.run(two, "cat", "/sys/fs/cgroup/pids.max") == "99\n"
        assert lab.cri.container_status(two).config.labels == {"new": "yes"}
        stats = lab.cri.container_stats(one)
        assert stats.memory is not None
        assert stats.memory.usage_bytes
        assert not os.path.exists(f"{lab.cri.container_status(one).bundle_path}/checkpoint")
        # its own handler of the signal is as it was, and how it ends is recorded
        lab.cri.stop_container(one, timeout_s=60)
        ended = lab.cri.container_status(one)
        assert (ended.state, ended.exit_code) == ("exited", 7)
        lab.cri.pause(two)
        lab.cri.resume(two)
        lab.cri.stop_container(two, timeout_s=0)
        assert lab.cri.container_status(two).exit_code == 137
    finally:
        lab.cri.remove_sandbox(restored.sandbox_id)


@pytest.mark.cgroup
def test_a_container_goes_on_from_an_archive_and_from_an_image_of_one(lab: Lab, tmp_path: Path) -> None:
    if why := checkpoints.problem():
        pytest.skip(f"kernel: CRIU cannot work with it: {why}")
    for directory in ("volume", "other"):
        (tmp_path / directory).mkdir()
    data = Mount(container_path="/data", host_path=str(tmp_path / "volume"))
    saved = tmp_path / "saved.tar"
    with lab.pod("before") as pod:
        before = lab.started(pod, "counter", WITH_HANDLER, mounts=(data,), envs=(("SAID", "then"),))
        eventually(lambda: len(logged(lab, before)) > 3)
        lab.cri.checkpoint_container(before, str(saved), timeout_s=60)
    name = f"{lab.registry.address}/library/saved:1"
    lab.registry.push_built("library/saved", ("1",), checkpoint_image(saved))
    lab.cri.pull_image(name)
    # as a kubelet says it, which knows nothing of the image that it was made of
    moved = msgspec.structs.replace(data, host_path=str(tmp_path / "other"))
    asked = lab.container(
        "again", image=str(saved), command=(), user="0", mounts=(moved,), labels={"new": "yes"}
    )
    asked = msgspec.structs.replace(asked, resources=Resources(oom_score_adj=77))
    lab.cri.remove_image(lab.image("busybox"))
    with lab.pod("after") as pod:
        for number, image in enumerate((str(saved), name)):
            config = msgspec.structs.replace(
                asked, image=image, metadata=msgspec.structs.replace(asked.metadata, attempt=number)
            )
            config = msgspec.structs.replace(config, log_path=f"again.{number}.log")
            (tmp_path / "other/count").unlink(missing_ok=True)
            after = lab.cri.create_container(pod, config)
            status = lab.cri.container_status(after)
            assert (status.state, status.pid, status.config.labels) == ("created", 0, {"new": "yes"})
            assert not (tmp_path / "other/count").exists()
            if not number:  # as one leaves it that is killed when CRIU has just begun
                store = lab.engine._context.store
                record = store.container(after)
                assert record is not None
                store.update_container(msgspec.structs.replace(record, phase="starting"))
                Path(status.bundle_path, "checkpoint/restored.pid").write_text("1")
            lab.cri.start_container(after)
            eventually(lambda key=after: len(logged(lab, key)) > 3)
            lines = logged(lab, after)
            assert lines[0] > 3
            assert lines == list(range(lines[0], lines[0] + len(lines)))
            assert (
                lab.run(after, "sh", "-c", "test -e /etc/group || echo $SAID; cat /proc/1/oom_score_adj")
                == "then\n77\n"
            )
            assert (tmp_path / "other/count").exists()
            assert not os.path.exists(f"{status.bundle_path}/checkpoint")
            assert lab.cri.container_status(after).state == "running"
            lab.cri.stop_container(after, timeout_s=60)
            assert lab.cri.container_status(after).exit_code == 7
    lab.cri.pull_image(lab.image("busybox"))


def test_what_cannot_be_written_of_a_pod_is_refused(lab: Lab, tmp_path: Path) -> None:
    with lab.pod("refused-pod") as pod, lab.pod("other") as other:
        with pytest.raises(FailedPrecondition, match="none of its containers runs"):
            lab.cri.checkpoint_sandbox(pod, f"{tmp_path}/x")
        mine, foreign = lab.started(pod), lab.started(other)
        (tmp_path / "full").mkdir()
        (tmp_path / "full/file").touch()
        for path in ("relative", f"{tmp_path}/none/x", f"{tmp_path}/full", f"{tmp_path}/full/file", ""):
            with pytest.raises(InvalidArgument, match="output_path"):
                lab.cri.checkpoint_sandbox(pod, path)
        with pytest.raises(InvalidArgument, match=r"container_ids\[1\]"):
            lab.cri.checkpoint_sandbox(pod, f"{tmp_path}/x", container_ids=[mine, foreign])
        ended = lab.started(pod, "e", "exit 0")
        eventually(lambda: lab.cri.container_status(ended).state == "exited")
        with pytest.raises(FailedPrecondition, match="exited"):
            lab.cri.checkpoint_sandbox(pod, f"{tmp_path}/x", container_ids=[ended])
        if why := checkpoints.problem():
            with pytest.raises(Unimplemented) as caught:
                lab.cri.checkpoint_sandbox(pod, f"{tmp_path}/x")
            assert why in str(caught.value)
        assert lab.cri.container_status(mine).state == "running"
        assert os.listdir(tmp_path) == ["full"]


def test_what_a_killed_checkpoint_froze_goes_on_after_recovery(lab: Lab, tmp_path: Path) -> None:
    with lab.pod("frozen") as pod:
        container, paused = lab.started(pod, "c"), lab.started(pod, "p")
        lab.cri.pause(paused)  # by somebody else
        half = tmp_path / ".half"
        half.mkdir()
        (half / "c.tar").write_bytes(b"half")
        note = Path(lab.engine.root, "sandboxes", pod, "frozen.json")
        note.write_text(json.dumps({"containers": [container, "0" * 64], "directory": str(half)}))
        lab.cri.pause(container)
        assert any("half checkpointed" in line for line in lab.engine.recover_fully())
        assert lab.cri.container_status(container).state == "running"
        assert lab.cri.container_status(paused).state == "paused"
        assert not half.exists()
        assert not note.exists()
        lab.cri.resume(paused)
