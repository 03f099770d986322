# SPDX-License-Identifier: Apache-2.0
"""Races on paths of an image, run thousands of times: a name changes between directory and link while we use it.

CVE-2021-30465 (a mount lands outside) and CVE-2024-45310 (directories are made outside). The controls are the usual
way to do it: look first, then act on the path.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from oakum.linux.paths import make_dirs_in_root

TRIES = 4000
# renameat2 with RENAME_EXCHANGE: the name is there at every moment, and is one thing or the other
_SWAPPER = """
import ctypes, os, sys
os.chdir(sys.argv[1])
exchange = ctypes.CDLL(None, use_errno=True).renameat2
while exchange(-100, b"name", -100, b"link", 2) == 0:
    pass
sys.exit(f"renameat2: {os.strerror(ctypes.get_errno())}")
"""


class Race(NamedTuple):
    """A root whose entry "name" is now a directory, now a link to `outside`."""

    root: Path
    outside: Path


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "name").mkdir(parents=True)
    outside.mkdir()
    os.symlink(str(outside), root / "link")
    swapper = subprocess.Popen([sys.executable, "-I", "-S", "-c", _SWAPPER, str(root)])
    yield Race(root, outside)
    ended = swapper.poll()
    swapper.send_signal(signal.SIGKILL)
    swapper.wait()
    assert ended is None, "the race was over before the test was"


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
    assert os.listdir(race.outside) == []


def test_cve_2024_45310_control(race: Race) -> None:
    for number in range(TRIES * 10):
        path = f"{race.root}/name/d{number}"
        try:
            if os.path.realpath(f"{race.root}/name").startswith(f"{race.root}/"):
                os.makedirs(path)
        except OSError:
            continue
        if os.listdir(race.outside):
            return
    pytest.fail("the naive way was never caught out: the race does not show anything")


def test_cve_2021_30465_a_mountpoint_is_what_was_looked_up(race: Race) -> None:
    root_fd = os.open(race.root, os.O_PATH | os.O_DIRECTORY)
    found = 0
    try:
        for _ in range(TRIES):
            try:
                with make_dirs_in_root(root_fd, "/name") as directory:
                    # what would be mounted on is this descriptor, so where it is now is where the mount goes
                    status = os.fstat(directory.fileno())
                    assert (status.st_dev, status.st_ino) != _identity(race.outside)
                    found += 1
            except OSError:
                continue
    finally:
        os.close(root_fd)
    assert found


def test_cve_2021_30465_control(race: Race) -> None:
    for _ in range(TRIES * 10):
        try:
            if os.path.realpath(f"{race.root}/name") != f"{race.root}/name":
                continue
            fd = os.open(f"{race.root}/name", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            continue
        status = os.fstat(fd)
        os.close(fd)
        if (status.st_dev, status.st_ino) == _identity(race.outside):
            return
    pytest.fail("the naive way was never caught out: the race does not show anything")


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
