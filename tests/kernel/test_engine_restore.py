# SPDX-License-Identifier: Apache-2.0
"""What restoring a pod is made of, without CRIU: files, names of mounts, rights, and what a killed restorer leaves.

Restored for real are those of `test_engine_checkpoint.py`, where CRIU works with the kernel.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from oakum.backend.config import Mount, SecurityProfile
from oakum.engine import checkpoints, unarchive
from oakum.errors import FailedPrecondition, NotFound, OakumError, Unimplemented
from oakum.oci.runtime import external
from oakum.shim.restored import check_rights
from tests.conftest import Directories
from tests.support.engines import Lab, laboratory
from tests.support.patience import eventually
from tests.support.registry import busybox_layer, make_layer, tar_entry


@pytest.fixture(scope="module")
def lab(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("registry")) as made:
        yield made


def written_by(lab: Lab, container: str) -> bytes:
    """An archive of what a container has written, as a checkpoint has it."""
    diff = io.BytesIO()
    changes = checkpoints.write_changes(diff, lab.engine._context.snapshotter.container_directory(container))
    assert not changes.obstacle
    members = {
        "rootfs-diff.tar": diff.getvalue(),
        "deleted.files": json.dumps(changes.deleted).encode(),
        "opaque.dirs": json.dumps(changes.opaque).encode(),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive.getvalue()


CHANGES = """
rm /etc/group; rm -r /data; mkdir /data; echo new >/data/new
mkdir /was; cp /outside/old /was/old; rm -r /outside
mknod /null c 1 3; chown 7:8 /data/new; chmod 4711 /data/new; ln /data/new /twin; touch "/$(printf 'odd\\377')"
"""
LOOK = "cd /; stat -c '%n %F %a %u %g %s %t' * etc/* data/* was/* | grep -v -e ^proc -e ^sys -e ^dev | sort"


def test_what_a_container_wrote_is_there_in_another_one(lab: Lab) -> None:
    files = make_layer(
        [
            tar_entry(name, payload=b"from the image\n", mode=0o644)
            for name in ("etc/group", "data/old", "data/deep/old", "outside/old")
        ]
    )
    lab.registry.push_image("library/files", "latest", [busybox_layer(), files], {"Cmd": ["sh"]})
    lab.cri.pull_image(lab.image("files"))
    image = {"image": lab.image("files"), "user": "0"}
    with lab.pod("writer") as pod:
        one = lab.started(
            pod, "one", f"{CHANGES}\n{LOOK} >/dev/shm/seen; touch /dev/shm/done; exec sleep 600", **image
        )
        shm = Path(lab.engine.state, "pods", pod, "shm")
        eventually((shm / "done").exists)
        archive = written_by(lab, one)
        two = lab.cri.create_container(pod, lab.container("two", f"{LOOK} >/dev/shm/again", **image))
        bundle = lab.cri.container_status(two).bundle_path
        upper = lab.engine._context.snapshotter.container_directory(two)
        unarchive.take_container([archive], bundle, "checkpoint", upper)
        lab.cri.start_container(two)
        lab.cri.wait(two, timeout_s=20)
        seen, again = ((shm / name).read_bytes() for name in ("seen", "again"))
        assert b"data/new regular file 4711 7 8" in seen
        assert b"odd\xff regular empty file" in seen
        assert b"was/old" in seen
        for gone in (b"etc/group", b"data/old", b"data/deep", b"outside"):
            assert gone not in seen
        assert again == seen


def test_what_no_archive_can_say_is_said(lab: Lab) -> None:
    with lab.pod("marks") as pod:
        container = lab.started(pod, script="mkdir /sub; touch /sub/.wh.x /done; exec sleep 600")
        upper = lab.engine._context.snapshotter.container_directory(container)
        eventually(lambda: os.path.exists(f"{upper}/done"))
        assert ".wh.x" in checkpoints.write_changes(io.BytesIO(), upper).obstacle


def test_a_mount_has_its_name_wherever_the_image_leads_it(lab: Lab, tmp_path: Path) -> None:
    mounts = tuple(Mount(container_path=p, host_path=str(tmp_path)) for p in ("/outside/there", "/plain"))
    with lab.pod("mounted") as pod:
        container = lab.started(
            pod, image=lab.image("volumes"), mounts=mounts, masked_paths=("/proc/version",)
        )
        pid = lab.cri.container_status(container).pid
        found = external.mounts_of(pid, config(lab, container))
        assert found["/etc/there"] == external.mount_key("/outside/there")
        assert found["/plain"] == external.mount_key("/plain")
        assert found["/etc/hosts"] == external.mount_key("/etc/hosts")
        assert found["/dev/shm"] == external.mount_key("/dev/shm")
        assert found["/proc/version"] == external.NULL_KEY
        assert not {"/", "/proc", "/dev", "/sys"} & found.keys()


def config(lab: Lab, container: str) -> Any:
    return json.loads(Path(lab.cri.container_status(container).bundle_path, "config.json").read_text())


def test_rights_beyond_the_configuration_are_seen(lab: Lab) -> None:
    with lab.pod("rights") as pod:
        container = lab.started(pod, no_new_privs=True, seccomp=SecurityProfile())
        bare = lab.started(pod, "bare")
        spec = config(lab, container)
        pid, bare_pid = (lab.cri.container_status(key).pid for key in (container, bare))
        joined = {
            n["type"]: os.open(n["path"], os.O_RDONLY) for n in spec["linux"]["namespaces"] if n.get("path")
        } or {
            kind: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
            for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        }
        try:
            check_rights(pid, spec, joined, filtered=True)
            check_rights(bare_pid, config(lab, bare), joined, filtered=False)
            fewer = {**spec["process"]["capabilities"], "bounding": ["CAP_CHOWN"]}
            host = {**joined, "network": os.open("/proc/self/ns/net", os.O_RDONLY)}
            joined["host"] = host["network"]  # to be closed
            own = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
            cases: tuple[tuple[int, Any, dict[str, int], bool, str], ...] = (
                (
                    pid,
                    {**spec, "process": {**spec["process"], "capabilities": fewer}},
                    joined,
                    True,
                    "capabilities",
                ),
                (bare_pid, spec, joined, False, "no_new_privs"),
                (bare_pid, config(lab, bare), joined, True, "system call filter"),
                (pid, spec, host, True, "another network namespace"),
                (pid, {**spec, "linux": {**spec["linux"], "namespaces": own}}, joined, True, "pid namespace"),
            )
            for who, changed, where, filtered, said in cases:
                with pytest.raises(FailedPrecondition, match=said):
                    check_rights(who, cast("Any", changed), where, filtered=filtered)
        finally:
            for fd in joined.values():
                os.close(fd)


def test_a_pod_whose_restorer_was_killed_is_removed_by_recovery(lab: Lab) -> None:
    pod = lab.cri.run_sandbox(lab.sandbox("half"))
    created = lab.cri.create_container(pod, lab.container("created"))
    note = Path(lab.engine.root, "sandboxes", pod, "restoring")
    note.touch()
    with open(note, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not any("restored" in line for line in lab.engine.recover_fully())
        assert lab.cri.container_status(created).state == "created"
    assert any("half restored, removed" in line for line in lab.engine.recover_fully())
    assert pod not in [status.id for status in lab.cri.list_sandboxes()]
    assert not note.parent.exists()


def test_a_host_or_handler_that_cannot_says_its_reason(lab: Lab, tmp_path: Path) -> None:
    if why := checkpoints.problem():
        with pytest.raises(Unimplemented) as caught:
            lab.cri.restore_sandbox(str(tmp_path), lab.sandbox("none"))
        assert why in str(caught.value)
    else:
        with pytest.raises(NotFound, match="no such directory"):
            lab.cri.restore_sandbox(f"{tmp_path}/none", lab.sandbox("none"))
    with pytest.raises(OakumError, match=r"CRIU|runtime_handler"):
        lab.cri.restore_sandbox(str(tmp_path), lab.sandbox("none"), runtime_handler="nobody")
    assert not [status for status in lab.cri.list_sandboxes() if status.config.metadata.name == "none"]
