# SPDX-License-Identifier: Apache-2.0
"""What restoring a pod or a container is made of, without CRIU: files, names of mounts, rights, and what a killed restorer leaves.

Restored for real are those of `test_engine_checkpoint.py`, where CRIU works with the kernel.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from oakum.backend.config import ContainerConfig, Mount, NamespaceOptions, Resources, SecurityProfile
from oakum.engine import checkpoints, container_restores, unarchive
from oakum.engine.images import Images
from oakum.errors import (
    DataLoss,
    FailedPrecondition,
    ImageNotFound,
    InvalidArgument,
    NotFound,
    OakumError,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from oakum.oci.runtime import criu, external
from oakum.shim.restored import check_rights, set_score
from tests.conftest import Directories
from tests.support.checkpoints import (
    CONTAINERD,
    CRIO,
    annotated,
    annotated_index,
    checkpoint_image,
    fake_criu,
)
from tests.support.engines import Lab, laboratory
from tests.support.images import build_image
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


def test_a_score_of_its_own_stays_unless_another_one_is_wanted(lab: Lab) -> None:
    with lab.pod("scores") as pod:
        script = "sh -c 'echo 300 >/proc/self/oom_score_adj; exec sleep 600' & while :; do sleep 0.05; done"
        container = lab.started(pod, script=script, resources=Resources(oom_score_adj=100))
        first = lab.cri.container_status(container).pid
        children = Path(f"/proc/{first}/task/{first}/children")

        def scores(pids: list[int]) -> list[int]:
            return [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids]

        both = [first, int(eventually(lambda: children.read_text().split())[0])]
        eventually(lambda: scores(both) == [100, 300])
        for wanted in (None, 100):
            assert set_score(wanted, first, both) == []
            assert scores(both) == [100, 300]
        assert set_score(200, first, both) == []
        assert scores(both) == [200, 200]


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


# -- containers from archives of one -------------------------------------------------------------------------------

WRITES = "rm /etc/group; echo kept >/kept; echo $SAID; while :; do sleep 0.05; done"


@pytest.fixture
def saved(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of a container, with images that are none."""
    path = tmp_path / "saved.tar"
    with lab.pod("before") as pod:
        container = lab.started(pod, "counter", WRITES, envs=(("SAID", "then"),))
        eventually(lambda: lab.run(container, "sh", "-c", "cat /kept || :") == "kept\n")
        with monkeypatch.context() as patched:
            patched.setattr(criu, "call", fake_criu)
            lab.cri.checkpoint_container(container, str(path), timeout_s=0)
    return path


def as_kubelets_say(lab: Lab, image: str, **fields: Any) -> ContainerConfig:
    """A container of an image of which nothing is known."""
    return lab.container(
        "again", image=image, **{"command": (), "user": "0", "labels": {"new": "yes"}, **fields}
    )


def test_tools_for_checkpoints_find_what_they_look_for(lab: Lab, saved: Path) -> None:
    with tarfile.open(saved) as tar:
        names = tar.getnames()
        said = {name: json.load(cast("Any", tar.extractfile(name))) for name in ("config.dump", "spec.dump")}
    assert {"stats-dump", "dump.log", "rootfs-diff.tar", "deleted.files", "checkpoint/pages-1.img"} < {*names}
    assert names[:2] == ["oakum.json", "oakum.seal"]
    assert len(names) == len(set(names))
    # Source: checkpointctl, lib/metadata.go and internal/container.go
    config = said["config.dump"]
    assert (config["name"], config["rootfsImageName"]) == ("counter", lab.image("busybox"))
    for field in ("createdTime", "checkpointedTime"):
        assert datetime.fromisoformat(config[field]).tzinfo is not None
    prefix = "io.kubernetes.cri."
    annotations = said["spec.dump"]["annotations"]
    assert {
        key: annotations[prefix + key] for key in ("container-name", "sandbox-name", "sandbox-namespace")
    } == {
        "container-name": "counter",
        "sandbox-name": "before",
        "sandbox-namespace": "tests",
    }


@pytest.mark.parametrize("form", ["file", CRIO, CONTAINERD, "index"])
def test_a_container_is_created_from_an_archive_and_started_by_criu(
    lab: Lab, saved: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = str(saved)
    if form == "index":
        built = checkpoint_image(saved, "none.of.these")
        lab.registry.push_built("library/index", (), built)
        index = annotated_index(built, {CONTAINERD: "counter"})
        lab.registry.put_manifest("library/index", "latest", index)
        image = lab.image("index")
    elif form != "file":
        lab.registry.push_built(f"library/{form}", ("latest",), checkpoint_image(saved, form))
        image = lab.image(form)
    if form != "file":
        lab.cri.pull_image(image)
    monkeypatch.setattr(container_restores, "problem", lambda _context: "")
    with lab.pod("after") as pod:
        container = lab.cri.create_container(pod, as_kubelets_say(lab, image))
        status = lab.cri.container_status(container)
        assert (status.state, status.config.labels) == ("created", {"new": "yes"})
        assert status.config.user_specified_image == lab.image("busybox")
        bundle = Path(status.bundle_path)
        assert (bundle / "checkpoint/pages-1.img").read_bytes().startswith(b"what CRIU says in pages-1.img")
        assert sorted(os.listdir(bundle / "checkpoint"))[:1] == ["core-1.img"]
        upper = Path(lab.engine._context.snapshotter.container_directory(container))
        assert (upper / "kept").read_text() == "kept\n"
        assert (upper / "etc/group").is_char_device()
        env = json.loads((bundle / "config.json").read_text())["process"]["env"]
        assert "SAID=then" in env
        # these images CRIU cannot restore, if it can anything here: then it is as with any start that fails
        with pytest.raises(OakumError, match="restore"):
            lab.cri.start_container(container)
        ended = lab.cri.container_status(container)
        assert (ended.state, ended.reason) == ("exited", "StartError")
        assert not (bundle / "checkpoint").exists()


def test_what_no_container_can_be_made_of_is_refused_and_leaves_nothing(
    lab: Lab, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = as_kubelets_say(lab, str(saved))
    replace = msgspec.structs.replace
    (tmp_path / "cut.tar").write_bytes(saved.read_bytes()[:-30000])
    (tmp_path / "text").write_text("text" * 300)
    cases: list[tuple[ContainerConfig, type[OakumError], str]] = [
        (replace(config, image=f"{tmp_path}/none"), NotFound, "no such file"),
        (replace(config, image=f"{tmp_path}/"), InvalidArgument, "not a file"),
        (replace(config, image=f"{tmp_path}/text"), InvalidArgument, "not an archive"),
        (replace(config, image=f"{tmp_path}/cut.tar"), DataLoss, "ends"),
        (replace(config, command=("true",)), InvalidArgument, "config: command"),
        (replace(config, add_capabilities=("NET_ADMIN",)), InvalidArgument, "config: add_capabilities"),
    ]
    with lab.pod("after") as pod, lab.pod("apart", namespaces=NamespaceOptions(ipc="node")) as apart:
        with monkeypatch.context() as patched:
            patched.setattr(container_restores, "problem", lambda _context: "")
            for wrong, error, said in cases:
                with pytest.raises(error, match=said):
                    lab.cri.create_container(pod, wrong)
            with pytest.raises(InvalidArgument, match=r"sandbox\.namespaces"):
                lab.cri.create_container(apart, config)
        # by its path it is no image
        assert lab.cri.image_status(str(saved)) is None
        with pytest.raises(InvalidArgument, match="where the container is created"):
            lab.cri.pull_image(str(saved))
        if why := container_restores.problem(lab.engine._context):
            with pytest.raises(Unimplemented) as caught:
                lab.cri.create_container(pod, config)
            assert why in str(caught.value)
        assert not lab.cri.list_containers()
    bundles = Path(lab.engine.root, "containers")
    assert not bundles.exists() or not os.listdir(bundles)


def test_what_only_the_pod_s_checkpoint_has_is_said(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu, "call", fake_criu)
    monkeypatch.setattr(container_restores, "problem", lambda _context: "")
    with lab.pod("shared") as pod:
        container = lab.started(pod, "c", "echo x >/dev/shm/x; touch /done; while :; do sleep 0.05; done")
        eventually(lambda: lab.run(container, "sh", "-c", "ls /done || :") == "/done\n")
        lab.cri.checkpoint_container(container, f"{tmp_path}/saved.tar", timeout_s=0)
        with pytest.raises(Unimplemented, match=r"/dev/shm.*checkpoint of the pod"):
            lab.cri.create_container(pod, as_kubelets_say(lab, f"{tmp_path}/saved.tar"))


def test_the_image_that_it_was_made_of_is_pulled_or_named(
    lab: Lab, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_restores, "problem", lambda _context: "")
    config = as_kubelets_say(lab, str(saved))
    lab.cri.remove_image(lab.image("busybox"))
    try:
        with lab.pod("fresh") as pod:
            with monkeypatch.context() as patched:
                patched.setattr(Images, "pull", refused)
                with pytest.raises(ImageNotFound, match=r"cannot be pulled: .*busybox@sha256:"):
                    lab.cri.create_container(pod, config)
            container = lab.cri.create_container(pod, config)
            assert lab.cri.container_status(container).state == "created"
            lab.cri.remove_container(container)
    finally:
        lab.cri.pull_image(lab.image("busybox"))


def refused(_images: Images, name: str, **_: object) -> str:
    raise Unavailable("pull image", name, "the registry does not answer")


def test_an_image_that_says_it_is_a_checkpoint_has_one_layer(lab: Lab) -> None:
    layers = [make_layer([tar_entry(name, payload=b"x")]) for name in ("oakum.json", "oakum.seal")]
    for name, built in (
        ("two-layers", build_image(layers, media="oci")),
        ("unsealed", build_image(layers[:1], media="oci")),
    ):
        lab.registry.push_built(f"library/{name}", ("latest",), annotated(built, {CRIO: "x"}))
        lab.cri.pull_image(lab.image(name))
    with lab.pod("many") as pod:
        with pytest.raises(FailedPrecondition, match="one layer, this image has 2"):
            lab.cri.create_container(pod, as_kubelets_say(lab, lab.image("two-layers")))
        with pytest.raises(PermissionDenied, match="not sealed"):
            lab.cri.create_container(pod, as_kubelets_say(lab, lab.image("unsealed")))
        assert not lab.cri.list_containers()
