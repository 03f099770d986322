# SPDX-License-Identifier: Apache-2.0
"""Races on paths of an image, run thousands of times: a name changes between directory and link while we use it.

The controls are the usual way to do it: look first, then act on the path. They have to be caught out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.linux.paths import make_dirs_in_root
from tests.kernel.oci_cli_box import Runtime
from tests.security.attacks import TRIES, Race, race_steps, swapping


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "name").mkdir(parents=True)
    (root / "name" / "secret").write_text("")
    outside.mkdir()
    (outside / "secret").write_text("")
    os.symlink(str(outside), root / "link")
    with swapping(root, "name", "link"):
        yield Race(root, outside)


def stays_inside(kind: str, race: Race) -> None:
    outcome = race_steps(kind, race, careful=True)
    assert outcome.outside == []
    assert outcome.done, "it never came to anything"
    assert outcome.done + outcome.refused >= TRIES


def goes_astray(kind: str, race: Race) -> None:
    outcome = race_steps(kind, race, careful=False)
    assert outcome.outside, "the naive way was never caught out: the race does not show anything"


def test_cve_2024_45310_directories_are_made_inside(race: Race) -> None:
    root_fd = os.open(race.root, os.O_PATH | os.O_DIRECTORY)
    made = 0
    try:
        for number in range(TRIES):
            try:
                with make_dirs_in_root(root_fd, f"/name/d{number}/deep") as directory:
                    assert os.readlink(f"/proc/self/fd/{directory.fileno()}").startswith(f"{race.root}/")
                    made += 1
            except OSError:
                continue  # it lost the race, and did nothing
    finally:
        os.close(root_fd)
    assert made
    assert os.listdir(race.outside) == ["secret"]


def test_cve_2024_45310_control(race: Race) -> None:
    for number in range(TRIES * 10):
        path = f"{race.root}/name/d{number}"
        try:
            if os.path.realpath(f"{race.root}/name").startswith(f"{race.root}/"):
                os.makedirs(path)
        except OSError:
            continue
        if len(os.listdir(race.outside)) > 1:
            return
    pytest.fail("the naive way was never caught out: the race does not show anything")


def test_cve_2024_45310_links_inside_the_image_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("/real", tmp_path / "absolute")
    os.symlink("../../../real/new", tmp_path / "dangling")
    root_fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        make_dirs_in_root(root_fd, "/absolute/a/b").close()
        make_dirs_in_root(root_fd, "/dangling/c").close()
    finally:
        os.close(root_fd)
    assert (tmp_path / "real/a/b").is_dir()
    assert (tmp_path / "real/new/c").is_dir()


@pytest.mark.parametrize("kind", [pytest.param("bind", marks=pytest.mark.cgroup), "tmpfs"])
def test_cve_2021_30465_a_mount_lands_inside(race: Race, kind: str) -> None:
    stays_inside(kind, race)


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_cve_2021_30465_control(race: Race, kind: str) -> None:
    goes_astray(kind, race)


def test_cve_2019_19921_proc_is_mounted_inside_whatever_its_name_becomes(race: Race) -> None:
    stays_inside("proc", race)


def test_cve_2019_19921_control_of_the_race(race: Race) -> None:
    goes_astray("proc", race)


def test_cve_2025_31133_a_mask_lands_inside(race: Race) -> None:
    stays_inside("mask", race)


def test_cve_2025_31133_control_of_the_race(race: Race) -> None:
    goes_astray("mask", race)


@pytest.mark.parametrize("kind", ["device", "link"])
def test_cve_2026_41579_what_is_made_in_dev_is_made_inside(race: Race, kind: str) -> None:
    stays_inside(kind, race)


@pytest.mark.parametrize("kind", ["device", "link"])
def test_cve_2026_41579_control_of_the_race(race: Race, kind: str) -> None:
    goes_astray(kind, race)


def test_cve_2021_30465_a_mountpoint_behind_a_link_of_the_image_is_found(runtime: Runtime) -> None:
    rootfs = Path(runtime.bundle, "rootfs")
    (rootfs / "real").mkdir()
    os.symlink("/real", rootfs / "linked")
    volume = {"destination": "/linked/vol", "type": "tmpfs", "source": "tmpfs"}
    runtime.write(
        "grep", "-o", " /real/vol tmpfs", "/proc/mounts", mounts=[*runtime.write("true")["mounts"], volume]
    )
    assert runtime("run", "-b", runtime.bundle, runtime.new_id()).stdout == " /real/vol tmpfs\n"
