# SPDX-License-Identifier: Apache-2.0
"""A disk that is full while containers run: their ends are known, and they can be stopped, looked at and removed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata, SandboxConfig, SandboxMetadata
from oakum.engine.engine import Engine
from oakum.engine.store import headroom
from tests.conftest import Directories
from tests.support.engines import Lab, laboratory
from tests.support.installations import end_installation
from tests.support.patience import eventually


@pytest.fixture
def lab(directories: Directories, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "lab").mkdir()
    with laboratory(*directories, tmp_path / "lab") as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "disk", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    """Leave not one page, as a container does that writes and writes."""
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def standalone(engine: Engine, image: str, name: str, script: str) -> str:
    return engine.namespace().create_standalone(
        SandboxConfig(metadata=SandboxMetadata(name=name), owner="container"),
        ContainerConfig(metadata=ContainerMetadata(name=name), image=image, command=("sh", "-c", script)),
    )


def test_what_ends_while_the_disk_is_full_has_ended_and_can_be_removed(
    lab: Lab, disk: Path, tmp_path: Path
) -> None:
    archive = str(tmp_path / "busybox.tar")
    lab.cri.export_images([lab.image("busybox")], archive)
    root, state = str(disk / "root"), lab.engine.state + "-full"
    try:
        with Engine(root, state) as engine:
            (image,) = engine.namespace().import_images(archive)
            one = standalone(
                engine, image.id, "one", "trap 'exit 5' USR1; touch /ready; while :; do sleep 0.05; done"
            )
            two = standalone(engine, image.id, "two", "while :; do sleep 0.05; done")
            engine.namespace().start_container(one)
            engine.namespace().start_container(two)
            ready = ["test", "-e", "/ready"]
            eventually(lambda: engine.namespace().exec_sync(one, ready, timeout_s=60).exit_code == 0)
        fill(disk / "filler")
        # every time as a command of its own does: the database is opened again
        with Engine(root, state) as engine:
            assert {status.id for status in engine.namespace().list_containers()} == {one, two}
            engine.namespace().kill(one, 10)
            eventually(lambda: engine.namespace().container_status(one).state == "exited")
            assert engine.namespace().wait(one).exit_code == 5
        fill(disk / "filler")
        with Engine(root, state) as engine:
            engine.namespace().stop_container(two, timeout_s=0)
            assert engine.namespace().container_status(two).state == "exited"
        with Engine(root, state) as engine:
            # a server has it open, and is asked again and again
            for _ in range(2):
                fill(disk / "filler")
                assert len(engine.namespace().list_containers()) == 2
            engine.namespace().remove_container(one)
            engine.namespace().remove_container(two)
            assert engine.namespace().list_containers() == []
        (disk / "filler").unlink()
        with Engine(root, state) as engine:
            again = standalone(engine, image.id, "again", "exit 0")
            engine.namespace().start_container(again)
            assert engine.namespace().wait(again).exit_code == 0
            engine.namespace().remove_container(again)
    finally:
        end_installation(root, state)


def test_space_is_kept_where_there_is_plenty_and_given_back_where_there_is_none(disk: Path) -> None:
    kept = disk / "headroom"
    headroom.adjust(str(disk))
    whole = kept.stat()
    assert whole.st_size == whole.st_blocks * 512 > 0
    headroom.adjust(str(disk))
    assert kept.stat() == whole
    fill(disk / "filler")
    headroom.adjust(str(disk))
    assert 0 < kept.stat().st_size < whole.st_size
    assert os.statvfs(disk).f_bfree > 0
    while kept.stat().st_size:
        fill(disk / "filler")
        headroom.adjust(str(disk))
    (disk / "filler").unlink()
    headroom.adjust(str(disk))
    assert kept.stat().st_size == whole.st_size
