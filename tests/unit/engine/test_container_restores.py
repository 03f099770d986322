# SPDX-License-Identifier: Apache-2.0
"""What is believed of a single container's archive, as a file and unpacked, and what of a request goes with it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    Mount,
    Resources,
    SandboxConfig,
    SandboxMetadata,
)
from oakum.engine import container_restores, restores, sealed, sealed_archive, unarchive
from oakum.engine.layout import Layout
from oakum.errors import DataLoss, InvalidArgument, NotFound, OakumError, PermissionDenied

CONFIG = ContainerConfig(
    metadata=ContainerMetadata(name="c"),
    image="registry.example/app:1",
    command=("sh",),
    args=("-c", "true"),
    user="1000",
    envs=(("A", "then"),),
    mounts=(Mount(container_path="/a", host_path="/one"), Mount(container_path="/b", host_path="/two")),
)
MEMBERS = {
    "deleted.files": b"[]",
    "opaque.dirs": b"[]",
    "checkpoint/core-1.img": b"core" * 3000,
    "rootfs-diff.tar": b"\0" * 10240,
}


def facts(**fields: Any) -> sealed_archive.ArchiveFacts:
    container = sealed.ContainerFacts(id="a" * 64, name="c", config=CONFIG, image_id="sha256:1")
    values: dict[str, Any] = {
        "version": sealed.VERSION,
        "id": "a" * 64,
        "runtime": "oakum",
        "machine": "x86_64",
        "snapshots": "overlay",
        "container": container,
        "sandbox": SandboxConfig(metadata=SandboxMetadata(name="p")),
        "pull_name": "registry.example/app@sha256:2",
        "files": tuple(sealed.described_bytes(data, name) for name, data in MEMBERS.items()),
    }
    return sealed_archive.ArchiveFacts(**{**values, **fields})


class Saved:
    """A sealed archive, as a file and unpacked, and where it goes."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.layout = Layout(str(tmp_path / "root"), str(tmp_path / "state"))
        for name in ("root", "bundle", "upper", "unpacked"):
            (tmp_path / name).mkdir()
        self.write()

    def write(self, members: dict[str, bytes] | None = None, **fields: Any) -> None:
        """Have both forms there, with the facts first."""
        head = dict(sealed_archive.members(self.layout, facts(**fields)))
        self.pack({**head, **(MEMBERS if members is None else members), "config.dump": b"{}"})

    def pack(self, members: dict[str, bytes]) -> None:
        """Have exactly these members there."""
        with tarfile.open(self.path / "saved.tar", "w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                place = self.path / "unpacked" / name
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(data)

    def opened(self, form: str) -> AbstractContextManager[sealed_archive.Archive]:
        if form == "file":
            return sealed_archive.opened_file(self.layout, str(self.path / "saved.tar"))
        return sealed_archive.opened_directory(self.layout, str(self.path / "unpacked"), "an/image:1")

    def take(self, form: str) -> None:
        """Put it where a container is to find it."""
        with self.opened(form) as archive:
            bundle, upper = str(self.path / "bundle"), str(self.path / "upper")
            unarchive.take_members(archive.put, archive.facts.files, bundle, "checkpoint", upper)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path)


both = pytest.mark.parametrize("form", ["file", "directory"])


@both
def test_what_was_sealed_is_there_again(saved: Saved, form: str) -> None:
    (saved.path / "unpacked/etc").mkdir()  # what tools add to an image is not of interest
    saved.take(form)
    assert (saved.path / "bundle/checkpoint/core-1.img").read_bytes() == b"core" * 3000
    assert os.listdir(saved.path / "bundle") == ["checkpoint"]
    with saved.opened(form) as archive:
        assert archive.facts.container.config == CONFIG


@both
def test_what_another_host_wrote_is_refused_unless_its_key_is_here(saved: Saved, form: str) -> None:
    key = Path(sealed.key_path(saved.layout))
    theirs = key.read_bytes()
    key.unlink()
    with pytest.raises(
        PermissionDenied, match=r"not sealed with this host's key.*bring its .*checkpoint\.key"
    ):
        saved.take(form)
    sealed.seal_of(saved.layout, b"")  # makes another one
    with pytest.raises(PermissionDenied, match="key"):
        saved.take(form)
    key.write_bytes(theirs)
    saved.take(form)


@both
@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"checkpoint/core-1.img": b"cure" * 3000}, DataLoss, "not what was sealed"),
        ({"checkpoint/core-1.img": b"core" * 3001}, DataLoss, "not what was sealed"),
        ({"checkpoint/core-1.img": None}, DataLoss, "core-1.img"),
        ({"deleted.files": b"{}"}, DataLoss, "not what was sealed"),
        ({"rootfs-diff.tar": b"\1" * 10240}, DataLoss, "not what was sealed"),
        ({"oakum.seal": b"0" * 65}, PermissionDenied, "key"),
        ({"oakum.json": b"{}"}, PermissionDenied, "key"),
        ({"oakum.json": None}, PermissionDenied, "key"),
        ({"oakum.seal": None}, PermissionDenied, "key"),
    ],
)
def test_what_was_changed_since_is_refused(
    saved: Saved, form: str, changed: dict[str, bytes | None], error: type[OakumError], said: str
) -> None:
    head = dict(sealed_archive.members(saved.layout, facts()))
    found = {**head, **MEMBERS, **changed}
    for name in changed:
        (saved.path / "unpacked" / name).unlink()
    saved.pack({name: data for name, data in found.items() if data is not None})
    with pytest.raises(error, match=said):
        saved.take(form)
    assert os.listdir(saved.path / "upper") == []


def test_a_member_that_nobody_sealed_is_refused(saved: Saved) -> None:
    saved.write({**MEMBERS, "checkpoint/core-2.img": b"more"})
    with pytest.raises(DataLoss, match="core-2"):
        saved.take("file")
    assert os.listdir(saved.path / "upper") == []


@pytest.mark.parametrize("kind", ["link", "pipe", "outside"])
def test_what_lies_in_an_image_is_a_file_of_it(saved: Saved, kind: str) -> None:
    place = saved.path / "unpacked/checkpoint/core-1.img"
    place.rename(saved.path / "elsewhere")
    if kind == "link":
        place.symlink_to("../../elsewhere")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.parent.rmdir()
        (saved.path / "there").mkdir()
        (saved.path / "elsewhere").rename(saved.path / "there/core-1.img")
        place.parent.symlink_to("../there")
    with pytest.raises(DataLoss, match="core-1"):
        saved.take("directory")


def test_what_else_this_host_has_sealed_is_no_archive(saved: Saved) -> None:
    text = msgspec.json.encode(facts())
    saved.pack({"oakum.json": text, "oakum.seal": sealed.seal_of(saved.layout, text)})
    with pytest.raises(PermissionDenied), saved.opened("file"):
        pass
    saved.write(version=2)
    with pytest.raises(InvalidArgument, match="version is 2"), saved.opened("file"):
        pass


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("none.tar", NotFound, "no such file"),
        ("", InvalidArgument, "not a file"),
        ("saved.tar/x", InvalidArgument, "Not a directory"),
        ("x" * 5000, InvalidArgument, "too long"),
        ("a\0b", InvalidArgument, "path"),
        ("pipe", InvalidArgument, "not a file"),
        ("text", InvalidArgument, "not an archive"),
        ("little", InvalidArgument, "not an archive"),
        ("empty", PermissionDenied, "key"),
        ("others.tar", PermissionDenied, "key"),
        ("huge.tar", PermissionDenied, "key"),
    ],
)
def test_a_path_of_no_archive_of_ours(saved: Saved, path: str, error: type[OakumError], said: str) -> None:
    os.mkfifo(saved.path / "pipe")
    (saved.path / "text").write_text("not a tar\n" * 100)
    (saved.path / "little").write_text("{}")
    (saved.path / "empty").touch()
    with tarfile.open(saved.path / "others.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("config.dump"))
    info = tarfile.TarInfo("oakum.json")
    info.size = 1 << 40
    (saved.path / "huge.tar").write_bytes(info.tobuf() + bytes(10240))
    with (
        pytest.raises(error, match=said),
        sealed_archive.opened_file(saved.layout, f"{saved.path}/{path}"),
    ):
        pass


# -- what goes together --------------------------------------------------------------------------------------------


def checked(change: Callable[[ContainerConfig], ContainerConfig]) -> ContainerConfig:
    """What comes of a request that names only the checkpoint, and is changed."""
    was = facts().container
    bare = ContainerConfig(
        metadata=ContainerMetadata(name="other", attempt=2), image="/saved.tar", mounts=CONFIG.mounts
    )
    wanted = container_restores.combined(was, change(bare))
    restores.check_container(was, wanted, "sha256:1", "config")
    return wanted


def with_fields(**fields: Any) -> Callable[[ContainerConfig], ContainerConfig]:
    return lambda config: msgspec.structs.replace(config, **fields)


def test_what_a_kubelet_cannot_know_is_as_it_was() -> None:
    found = checked(with_fields(user="0", envs=(("A", "now"),), labels={"a": "b"}, log_path="new.log"))
    assert (found.command, found.args, found.user) == (CONFIG.command, CONFIG.args, "1000")
    assert (found.envs, found.image) == (CONFIG.envs, "sha256:1")
    assert found.user_specified_image == "registry.example/app:1"
    assert (found.metadata.name, found.metadata.attempt) == ("other", 2)
    assert (found.labels, found.log_path) == ({"a": "b"}, "new.log")


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ("sh",)},
        {"user": "1000"},
        {"resources": Resources(memory_limit_bytes=1 << 30)},
        {"mounts": CONFIG.mounts[::-1]},
        {"mounts": tuple(msgspec.structs.replace(m, host_path="/new") for m in CONFIG.mounts)},
    ],
)
def test_what_is_around_the_processes_may_be_another(fields: dict[str, Any]) -> None:
    checked(with_fields(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ("su",)},
        {"args": ("-c", "false")},
        {"user": "1001"},
        {"user": "0:0"},
        {"working_dir": "/tmp"},
        {"privileged": True},
        {"no_new_privs": True},
        {"add_capabilities": ("NET_ADMIN",)},
        {"readonly_rootfs": True},
        {"masked_paths": ("/proc/x",)},
        {"mounts": CONFIG.mounts[:1]},
        {"mounts": (*CONFIG.mounts, Mount(container_path="/etc", host_path="/"))},
    ],
)
def test_what_is_in_the_processes_cannot_be_changed(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=f"config: {next(iter(fields))}"):
        checked(with_fields(**fields))
