# SPDX-License-Identifier: Apache-2.0
"""A log's way from Docker's files into ours: rotations on both sides, kills at any place, a full disk."""

from __future__ import annotations

import errno
import glob
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.docker import tail as module
from oakum.docker.tail import Tail
from tests.unit.docker.local_log import DockersLog


class Killed(BaseException):
    """As a kill -9: nothing runs afterwards."""


class World:
    """One container's log, before and after whatever happens to us."""

    def __init__(self, directory: Path) -> None:
        self.docker = DockersLog(f"{directory}/docker/local-logs")
        self.log = f"{directory}/0.log"
        self.position = f"{directory}/own/log"
        self.written = 0
        self.rotations = 0
        self.tail = self._tail()

    def _tail(self) -> Tail:
        return Tail("c", self.docker.directory, self.log, self.position)

    def new(self) -> None:
        """A process after a kill: what the one before held is gone with it."""
        self.tail.release()
        self.tail = self._tail()

    def write(self, count: int) -> None:
        self.docker.write(*(b"%d" % n for n in range(self.written, self.written + count)))
        self.written += count

    def rename(self) -> None:
        os.rename(self.log, f"{self.log}.{self.rotations:04}")
        self.rotations += 1

    def lines(self) -> list[bytes]:
        files = [*sorted(glob.glob(f"{self.log}.*")), *glob.glob(self.log)]
        text = b"".join(Path(file).read_bytes() for file in files)
        assert text.endswith(b"\n") or not text
        return [line.split(b" ", 3)[3] for line in text.splitlines()]

    def check(self) -> None:
        self.tail.drain()
        assert self.lines() == [b"%d" % n for n in range(self.written)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.tail.release()


def test_the_log_is_there_before_anything_is_written(world: World) -> None:
    world.tail.prepare()
    assert world.lines() == []
    assert not world.tail.pump()


def test_docker_rotates_and_nothing_is_missed(world: World) -> None:
    for _ in range(3):
        world.write(5)
        world.docker.rotate()
    world.write(2)
    world.check()
    world.write(3)
    world.docker.rotate()
    world.write(3)
    world.check()


def test_what_docker_threw_away_is_said_and_the_rest_comes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(2)
    world.tail.drain()
    for _ in range(5):
        world.docker.write(b"x")
        world.docker.rotate()
    world.tail.drain()
    assert "lines of a log are missing" in caplog.text
    assert world.lines() == [b"0", b"1", b"x", b"x", b"x", b"x"]


def test_a_removed_container_is_read_to_its_end(world: World) -> None:
    world.write(3)
    world.tail.drain()
    world.write(3)
    os.unlink(world.docker.path)
    world.tail.forget()
    assert len(world.lines()) == 6
    assert not os.path.exists(world.position)


def test_rotations_of_ours(world: World) -> None:
    for _ in range(4):
        world.write(3)
        world.tail.drain()
        world.rename()
        world.write(2)
        world.tail.drain()
        world.tail.reopen()
    world.check()
    assert len(glob.glob(f"{world.log}*")) == 5


def test_a_rotation_while_we_were_away_goes_on_in_the_new_file_or_in_the_old_until_told(world: World) -> None:
    world.write(3)
    world.tail.drain()
    world.rename()
    world.write(3)
    world.new()
    world.tail.drain()
    # the kubelet has renamed and not yet told us: it may rename back, and then nothing may lie in its way
    assert not os.path.exists(world.log)
    world.tail.reopen()
    world.write(1)
    world.check()
    world.rename()
    Path(world.log).touch()
    world.new()
    world.write(2)
    world.check()


@pytest.mark.parametrize("seed", range(12))
def test_killed_anywhere_and_rotated_at_any_time_no_line_is_lost_or_doubled(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)

    def maybe_killed() -> None:
        if chance.random() < 0.15:
            raise Killed

    class Os:
        """The system, in which the process is killed between, and within, its calls."""

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def write(self, fd: int, data: bytes) -> int:
            maybe_killed()
            if chance.random() < 0.2:
                done = os.write(fd, data[: chance.randint(1, len(data))])
            else:
                done = os.write(fd, data)
            maybe_killed()
            return done

    monkeypatch.setattr(module, "os", Os())
    record = module.PositionFile.write

    def recorded(self: module.PositionFile, position: module.Position) -> None:
        maybe_killed()
        record(self, position)
        maybe_killed()

    monkeypatch.setattr(module.PositionFile, "write", recorded)
    for _ in range(60):
        step = chance.choice(["write", "write", "pump", "pump", "docker", "rotate", "restart"])
        try:
            match step:
                case "write":
                    world.write(chance.randint(1, 9))
                case "pump":
                    world.tail.pump()
                case "docker":
                    world.tail.drain()
                    world.docker.rotate()
                case "rotate":
                    if os.path.exists(world.log):
                        world.rename()
                        world.tail.reopen()
                case "restart":
                    world.new()
        except Killed:
            world.new()
    monkeypatch.undo()
    world.check()


def test_a_full_disk_makes_lines_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(4)
    room = [45]

    class Os:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def write(self, fd: int, data: bytes) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = os.write(fd, bytes(data)[: room[0]])
            room[0] -= done
            return done

    monkeypatch.setattr(module, "os", Os())
    assert not world.tail.pump()
    assert "No space left" in world.tail.blocked
    world.new()  # killed while it waits
    world.tail.pump()
    room[0] = 20
    world.rename()
    world.tail.reopen()
    world.tail.pump()
    monkeypatch.undo()
    world.check()
    assert world.tail.blocked == ""
