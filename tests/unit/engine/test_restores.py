# SPDX-License-Identifier: Apache-2.0
"""What is believed of a pod's checkpoint: nothing before its seal and its hashes, and then what goes with the configuration."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    Mount,
    NamespaceOptions,
    Resources,
    SandboxConfig,
    SandboxMetadata,
)
from oakum.engine import checkpoints, restores, sealed, unarchive
from oakum.engine.layout import Layout
from oakum.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OakumError,
    PermissionDenied,
    Unimplemented,
)

CONFIG = ContainerConfig(metadata=ContainerMetadata(name="c"), image="i", command=("sh",))
SANDBOX = SandboxConfig(metadata=SandboxMetadata(name="p"))


def facts(archive: sealed.FileFacts | None = None, **fields: Any) -> sealed.PodFacts:
    container = sealed.PodContainerFacts(
        id="a" * 64,
        name="c",
        archive=archive or sealed.FileFacts(name="c.tar", size_bytes=1, sha256=""),
        config=CONFIG,
        image_id="sha256:1",
    )
    values: dict[str, Any] = {
        "version": sealed.VERSION,
        "id": "b" * 64,
        "runtime": "oakum",
        "machine": "x86_64",
        "snapshots": "overlay",
        "config": SANDBOX,
        "containers": (container,),
    }
    return sealed.PodFacts(**{**values, **fields})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "root").mkdir()
    return Layout(str(tmp_path / "root"), str(tmp_path / "state"))


@pytest.fixture
def saved(layout: Layout, tmp_path: Path) -> Path:
    """A sealed checkpoint of one container, whose archive is not of interest."""
    directory = tmp_path / "saved"
    directory.mkdir()
    (directory / "c.tar").write_bytes(b"x" * 5000)
    sealed.write(layout, str(directory), facts(sealed.describe(str(directory), "c.tar")))
    return directory


def content(layout: Layout, directory: Path) -> bytes:
    with sealed.opened(layout, str(directory)) as checkpoint:
        return b"".join(checkpoint.read(checkpoint.facts.containers[0].archive))


# -- the seal ------------------------------------------------------------------------------------------------------


def test_what_was_sealed_here_is_read_again(layout: Layout, saved: Path) -> None:
    assert content(layout, saved) == b"x" * 5000
    assert os.stat(sealed.key_path(layout)).st_mode & 0o777 == 0o600
    with sealed.opened(layout, str(saved)) as checkpoint:
        assert checkpoint.facts.containers[0].config == CONFIG


def test_a_checkpoint_goes_to_another_host_with_its_key(layout: Layout, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Layout(str(tmp_path / "other"), str(tmp_path / "state"))
    with pytest.raises(PermissionDenied, match="key"):
        content(other, saved)
    os.link(sealed.key_path(layout), sealed.key_path(other))
    assert content(other, saved) == b"x" * 5000


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _swapped_for_a_pipe(saved: Path) -> None:
    (saved / "c.tar").unlink()
    os.mkfifo(saved / "c.tar")


def _swapped_for_a_link(saved: Path) -> None:
    (saved / "c.tar").rename(saved.parent / "outside")
    (saved / "c.tar").symlink_to("../outside")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda saved: changed(saved / "pod.json", lambda text: text + b" "), PermissionDenied),
        (
            lambda saved: changed(saved / "pod.json", lambda text: text.replace(b'"sh"', b'"su"')),
            PermissionDenied,
        ),
        (lambda saved: (saved / "pod.seal").write_text("0" * 64), PermissionDenied),
        (lambda saved: (saved / "pod.seal").unlink(), DataLoss),
        (lambda saved: (saved / "pod.json").write_bytes(b" " * (17 << 20)), DataLoss),
        (lambda saved: changed(saved / "c.tar", lambda data: data[:-1]), DataLoss),
        (lambda saved: changed(saved / "c.tar", lambda data: data + b"x"), DataLoss),
        (lambda saved: changed(saved / "c.tar", lambda data: data[:-1] + b"y"), DataLoss),
        (lambda saved: (saved / "c.tar").unlink(), DataLoss),
        (_swapped_for_a_pipe, DataLoss),
        (_swapped_for_a_link, DataLoss),
    ],
)
def test_what_was_changed_since_is_refused(
    layout: Layout, saved: Path, damage: Callable[[Path], object], error: type[OakumError]
) -> None:
    damage(saved)
    with pytest.raises(error):
        content(layout, saved)


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "/etc/passwd", "a\0b"])
def test_a_file_of_the_checkpoint_lies_right_in_its_directory(layout: Layout, saved: Path, name: str) -> None:
    (saved.parent / "outside").write_bytes(b"x" * 5000)
    was = sealed.describe(str(saved), "c.tar")
    sealed.write(layout, str(saved), facts(msgspec.structs.replace(was, name=name)))
    with pytest.raises(DataLoss, match="not the name of a file"):
        content(layout, saved)


def test_what_is_no_checkpoint_is_said(layout: Layout, saved: Path, tmp_path: Path) -> None:
    for path, error in (
        (tmp_path / "none", NotFound),
        (saved / "c.tar", InvalidArgument),
        (tmp_path, DataLoss),
    ):
        with pytest.raises(error), sealed.opened(layout, str(path)):
            pass
    sealed.write(layout, str(saved), facts(version=2))
    with pytest.raises(InvalidArgument, match="version is 2"), sealed.opened(layout, str(saved)):
        pass


def test_a_key_that_others_may_read_is_none(layout: Layout, saved: Path) -> None:
    os.chmod(sealed.key_path(layout), 0o644)
    with pytest.raises(PermissionDenied, match="others"):
        content(layout, saved)
    os.chmod(sealed.key_path(layout), 0o600)
    Path(sealed.key_path(layout)).write_bytes(b"short")
    with pytest.raises(DataLoss, match="key"):
        content(layout, saved)


# -- what goes together --------------------------------------------------------------------------------------------


def test_a_host_that_cannot_go_on_with_it_says_why() -> None:
    restores.check_host(facts(), machine="x86_64", snapshots="overlay")
    with pytest.raises(FailedPrecondition, match="from a x86_64, this is a aarch64"):
        restores.check_host(facts(), machine="aarch64", snapshots="overlay")
    with pytest.raises(Unimplemented, match="overlay"):
        restores.check_host(facts(), machine="x86_64", snapshots="copy")
    restores.check_pod(facts())
    with pytest.raises(FailedPrecondition, match="no container"):
        restores.check_pod(facts(containers=()))
    with pytest.raises(Unimplemented, match="/dev/shm"):
        restores.check_pod(facts(obstacle="x"))
    kept = msgspec.structs.replace(facts().containers[0], obstacle="it is privileged")
    with pytest.raises(Unimplemented, match="privileged"):
        restores.check_pod(facts(containers=(kept,)))


def test_a_pod_may_be_called_otherwise_but_not_share_otherwise() -> None:
    replace = msgspec.structs.replace
    restores.check_sandbox(SANDBOX, replace(SANDBOX, hostname="new", labels={"a": "b"}))
    with pytest.raises(InvalidArgument, match=r"config\.namespaces"):
        restores.check_sandbox(SANDBOX, replace(SANDBOX, namespaces=NamespaceOptions(ipc="node")))
    with pytest.raises(InvalidArgument, match=r"config\.privileged"):
        restores.check_sandbox(SANDBOX, replace(SANDBOX, privileged=True))
    users = replace(SANDBOX, namespaces=NamespaceOptions(user="pod"))
    with pytest.raises(Unimplemented, match="users"):
        restores.check_sandbox(users, users)


def test_each_configuration_is_of_one_container() -> None:
    assert restores.chosen_configs(facts(), []) == [(facts().containers[0], CONFIG)]
    new = msgspec.structs.replace(CONFIG, labels={"a": "b"})
    assert restores.chosen_configs(facts(), [new]) == [(facts().containers[0], new)]
    with pytest.raises(InvalidArgument, match=r"container_configs\[1\].*twice"):
        restores.chosen_configs(facts(), [new, new])
    other = msgspec.structs.replace(CONFIG, metadata=ContainerMetadata(name="d"))
    with pytest.raises(InvalidArgument, match=r"container_configs\[0\].*no container"):
        restores.chosen_configs(facts(), [other])


def test_what_runs_keeps_what_it_has() -> None:
    was = facts().containers[0]
    for change in (
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
        {"log_path": "new.log"},
        {"image": "another/name:1"},
        {"resources": Resources(memory_limit_bytes=1 << 30, oom_score_adj=-900)},
        {"metadata": ContainerMetadata(name="c", attempt=3)},
    ):
        restores.check_container(was, msgspec.structs.replace(CONFIG, **change), "sha256:1")
    for change in (
        {"command": ("su",)},
        {"privileged": True},
        {"add_capabilities": ("NET_ADMIN",)},
        {"user": "0"},
        {"no_new_privs": True},
        {"tty": True},
        {"mounts": (Mount(container_path="/x", host_path="/"),)},
    ):
        with pytest.raises(InvalidArgument, match=next(iter(change))):
            restores.check_container(was, msgspec.structs.replace(CONFIG, **change), "sha256:1")
    with pytest.raises(FailedPrecondition, match="image"):
        restores.check_container(was, CONFIG, "sha256:2")


def test_a_mount_may_have_another_source_but_not_be_another_mount() -> None:
    mount = Mount(container_path="/data", host_path="/one", readonly=True)
    was = msgspec.structs.replace(
        facts().containers[0], config=msgspec.structs.replace(CONFIG, mounts=(mount,))
    )
    for field, value, allowed in (
        ("host_path", "/two", True),
        ("readonly", False, False),
        ("container_path", "/etc", False),
    ):
        now = msgspec.structs.replace(CONFIG, mounts=(msgspec.structs.replace(mount, **{field: value}),))
        if allowed:
            restores.check_container(was, now, "sha256:1")
        else:
            with pytest.raises(InvalidArgument, match="mounts"):
                restores.check_container(was, now, "sha256:1")


# -- the archive ---------------------------------------------------------------------------------------------------


class Place:
    """Where an archive goes."""

    def __init__(self, tmp_path: Path) -> None:
        self.bundle, self.upper = tmp_path / "bundle", tmp_path / "upper"
        for directory in (self.bundle, self.upper):
            directory.mkdir()

    def take(self, archive: bytes) -> None:
        pieces = (archive[start : start + 700] for start in range(0, len(archive), 700))
        unarchive.take_container(pieces, str(self.bundle), "checkpoint", str(self.upper))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    assert sorted(os.listdir(tmp_path)) == ["bundle", "upper"]


def packed(**members: bytes) -> bytes:
    """An archive of members; "__" is a slash."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def written(directory: Path) -> bytes:
    buffer = io.BytesIO()
    checkpoints.write_changes(buffer, str(directory))
    return buffer.getvalue()


def test_what_was_written_is_there_again(place: Place, tmp_path: Path) -> None:
    layer = place.bundle / "layer"
    (layer / "made").mkdir(parents=True)
    (layer / "made/file").write_bytes(b"data" * 9000)
    (layer / "made/file").chmod(0o4775)
    (layer / "made/link").symlink_to("/proc/1/root/../../etc")
    os.setxattr(layer / "made/file", "user.note", b"\xff\0kept")
    os.mkfifo(layer / os.fsdecode(b"pipe-\xff"))
    layer.chmod(0o711)
    diff = written(layer)
    place.take(packed(**{"rootfs-diff.tar": diff, "checkpoint__core-1.img": b"core", "dump.log": b"said"}))
    upper = place.upper
    assert (upper / "made/file").read_bytes() == b"data" * 9000
    assert (upper / "made/file").stat().st_mode & 0o7777 == 0o4775
    assert os.readlink(upper / "made/link") == "/proc/1/root/../../etc"
    assert os.getxattr(upper / "made/file", "user.note") == b"\xff\0kept"
    assert stat.S_ISFIFO((upper / os.fsdecode(b"pipe-\xff")).lstat().st_mode)
    assert upper.stat().st_mode & 0o777 == 0o711
    images = place.bundle / "checkpoint"
    assert {p.name: p.read_bytes() for p in images.iterdir()} == {"core-1.img": b"core"}
    assert images.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(place.bundle)) == ["checkpoint", "layer"]
    umask = os.umask(0o77)
    os.umask(umask)
    assert umask != 0


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint/../../escape",
        "checkpoint/a/b",
        "checkpoint/.hidden",
        "checkpoint/",
        "/checkpoint/x.img",
        "../checkpoint/x.img",
        "config.json",
        "checkpoint/" + "x" * 300,
        "checkpoint/\u00e9.img",
    ],
)
def test_a_member_of_another_name_is_refused(place: Place, name: str) -> None:
    with pytest.raises(DataLoss, match="member"):
        place.take(packed(**{"rootfs-diff.tar": b"", name: b"x"}))
    assert os.listdir(place.upper) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file_is_refused(place: Place, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("checkpoint/x.img")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataLoss, match="not a regular file"):
        place.take(buffer.getvalue())


def test_a_member_comes_once(place: Place) -> None:
    one = packed(checkpoint__x=b"1")
    with pytest.raises(DataLoss, match="twice"):
        place.take(one[: len(one) - len(one) % 512][:1024] + one)


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"[", b"[" * 100_000, b"\xff"])
def test_a_list_that_is_none_is_refused(place: Place, text: bytes) -> None:
    with pytest.raises(DataLoss, match="list"):
        place.take(packed(**{"rootfs-diff.tar": b"", "deleted.files": text}))
    assert os.listdir(place.upper) == []


def test_an_archive_that_ends_too_soon_is_refused(place: Place) -> None:
    whole = packed(**{"checkpoint__x": b"x" * 5000, "rootfs-diff.tar": b""})
    with pytest.raises(DataLoss):
        place.take(whole[:3000])
    with pytest.raises(DataLoss, match="not in the archive"):
        Place.take(place, packed()) if not (place.bundle / "checkpoint").exists() else _again(place, packed())


def _again(place: Place, archive: bytes) -> None:
    for path in (place.bundle / "checkpoint").iterdir():
        path.unlink()
    (place.bundle / "checkpoint").rmdir()
    place.take(archive)


@pytest.mark.parametrize("path", ["../outside", "link/x", "a/../../x", "", "..", "/etc/x", "a/.."])
def test_what_is_hidden_is_in_the_layer(place: Place, path: str) -> None:
    (place.upper / "link").symlink_to("..")
    (place.upper / "a").mkdir()
    deleted = json.dumps([path]).encode()
    with pytest.raises(OakumError):
        place.take(packed(**{"rootfs-diff.tar": b"", "deleted.files": deleted}))
    assert sorted(os.listdir(place.upper)) == ["a", "link"]
