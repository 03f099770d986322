# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a pod's container: an archive where CRIU works with the kernel, else its own reason everywhere."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.engine import checkpoints
from oakum.errors import FailedPrecondition, InvalidArgument, Unimplemented
from tests.conftest import Directories
from tests.support.engines import Lab, laboratory
from tests.support.patience import eventually

COUNT = (
    "rm /etc/group; ln -s /proc/1/root /trap; n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.05; done"
)


@pytest.fixture(scope="module")
def lab(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("registry")) as made:
        yield made


def counted(lab: Lab, container: str) -> int:
    return int(lab.run(container, "sh", "-c", "cat /count || echo 0").strip() or 0)


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
def test_a_pod_is_written_at_one_moment_and_runs_on(lab: Lab, tmp_path: Path) -> None:
    if why := checkpoints.problem():
        pytest.skip(f"kernel: CRIU cannot work with it: {why}")
    with lab.pod("both") as pod:
        counters = [lab.started(pod, name, script=COUNT) for name in ("one", "two")]
        for container in counters:
            eventually(lambda key=container: counted(lab, key) > 3)
        lab.cri.checkpoint_sandbox(pod, str(tmp_path / "pod"))
        assert os.listdir(tmp_path) == ["pod"]
        assert (tmp_path / "pod").stat().st_mode & 0o777 == 0o700
        facts = json.loads((tmp_path / "pod/pod.json").read_text())
        assert facts["id"] == pod
        archives = {c["name"]: c["archive"] for c in facts["containers"]}
        assert set(os.listdir(tmp_path / "pod")) == {"pod.json", *archives.values()}
        assert set(archives) == {"one", "two"}
        for archive in archives.values():
            with tarfile.open(tmp_path / "pod" / archive) as tar:
                assert {"checkpoint/inventory.img", "rootfs-diff.tar"} <= set(tar.getnames())
        for container in counters:
            at = counted(lab, container)
            eventually(lambda key=container, before=at: counted(lab, key) > before)


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
