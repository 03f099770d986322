# SPDX-License-Identifier: Apache-2.0
"""CVE-2025-52565: what is put at /dev/console is a terminal that the kernel made, whatever the image has at its path."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.oci_cli_box import Runtime
from tests.security.attacks import Race, naive, race_steps, swapping, without_dev


def create(runtime: Runtime, mounts: list[dict[str, Any]], *args: str) -> tuple[int, str, int]:
    """Create a container with a terminal; exit code, what was said, and the terminal's master or -1."""
    path = str(runtime.directory / "console")
    runtime.write(*args, mounts=mounts, process={"terminal": True})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        container = runtime.new_id()
        done = runtime("create", "-b", runtime.bundle, "--console-socket", path, container, check=False)
        os.unlink(path)
        if done.returncode:
            return done.returncode, done.stderr, -1
        with listener.accept()[0] as connection:
            master = socket.recv_fds(connection, 100, 1)[1][0]
    runtime("start", container)
    return 0, container, master


@pytest.fixture
def decoy(runtime: Runtime) -> Path:
    """A file of the container that its attacker wants opened up at /dev/console."""
    made = Path(runtime.bundle, "rootfs/decoy")
    made.write_text("of the attacker\n")
    return made


def test_cve_2025_52565_a_terminal_of_the_image_is_none(runtime: Runtime, decoy: Path) -> None:
    pts = Path(runtime.bundle, "rootfs/dev/pts")
    pts.mkdir(parents=True)
    mounts = without_dev(runtime.write("true"))
    for make in (
        lambda: os.symlink("/decoy", pts / "ptmx"),
        lambda: os.mknod(pts / "ptmx", 0o600),
        lambda: os.mknod(pts / "ptmx", 0o020600, os.makedev(1, 5)),
        lambda: os.mkfifo(pts / "ptmx"),
        # the host's own multiplexer: then the terminal is not found below the container's /dev/pts
        lambda: os.mknod(pts / "ptmx", 0o020600, os.makedev(5, 2)),
    ):
        make()
        for number in range(8):
            (pts / str(number)).unlink(missing_ok=True)
            os.symlink("/decoy", pts / str(number))
        code, said, master = create(runtime, mounts, "true")
        assert (code, master) == (1, -1), said
        os.unlink(pts / "ptmx")
    assert decoy.read_text() == "of the attacker\n"
    assert runtime("list", "-q").stdout == ""


def test_cve_2025_52565_control(runtime: Runtime, decoy: Path) -> None:
    rootfs = f"{runtime.bundle}/rootfs"
    os.makedirs(f"{rootfs}/dev/pts")
    os.symlink(f"{rootfs}/decoy", f"{rootfs}/dev/pts/0")
    script = 'touch "$1/dev/console" && mount --bind "$1/dev/pts/0" "$1/dev/console" && cat "$1/dev/console"'
    assert naive(script, rootfs).stdout == decoy.read_text()


@pytest.fixture(params=["link", "file"])
def race(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Race]:
    """/dev is the image's and holds two directories that change places: one for a devpts, one with decoys."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    # On an overlay what is mounted on a name goes when the name changes; there would be no devpts any more.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(root)], check=True)
    for name in ("pts", "other"):
        (root / "dev" / name).mkdir(parents=True)
    (root / "dev/pts/here").write_text("")
    (root / "dev/console").write_text("")
    outside.mkdir()
    (outside / "decoy").write_text("of the attacker\n")
    for name in ("ptmx", *map(str, range(8))):
        if request.param == "link" or name == "ptmx":
            os.symlink(outside / "decoy", root / "dev/other" / name)
        else:
            (root / "dev/other" / name).write_text("of the attacker\n")
    try:
        with swapping(root / "dev", "pts", "other"):
            yield Race(root, outside)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_cve_2025_52565_only_terminals_come_to_dev_console(race: Race) -> None:
    outcome = race_steps("console", race, careful=True)
    assert outcome.outside == []
    assert outcome.done


def test_cve_2025_52565_control_of_the_race(race: Race) -> None:
    assert race_steps("console", race, careful=False).outside


def test_cve_2025_52565_a_real_terminal_is_at_dev_console(runtime: Runtime) -> None:
    mounts = runtime.write("true")["mounts"]
    code, said, master = create(runtime, mounts, "sh", "-c", "echo through > /dev/console; exec sleep 600")
    assert code == 0, said
    with os.fdopen(master, "rb", buffering=0) as terminal:
        assert terminal.read(100) == b"through\r\n"
