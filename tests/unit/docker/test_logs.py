# SPDX-License-Identifier: Apache-2.0
"""Logs side by side: none waits for another, however much that says or whatever is wrong with it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from oakum.docker.client import DockerClient
from oakum.docker.logs import LogKeeper
from oakum.docker.tail import Tail
from oakum.linux.inotify import Inotify
from tests.support.patience import eventually
from tests.unit.docker.local_log import DockersLog


class Node:
    """A keeper, and what Docker writes for it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._talking = threading.Event()
        self._talker = threading.Thread(target=self._talk)
        self.keeper = LogKeeper(cast("DockerClient", cast("Any", self)), str(directory / "own"))

    def root_directory(self) -> str:
        return str(self._directory / "docker")

    def follow(self, name: str) -> DockersLog:
        written = DockersLog(f"{self.root_directory()}/containers/{name}/local-logs")
        self.keeper.follow(name, str(self._directory / f"{name}.log"))
        return written

    def lines(self, name: str) -> list[str]:
        text = (self._directory / f"{name}.log").read_text()
        return [line.split(" ", 3)[3] for line in text.splitlines()]

    def talk(self) -> None:
        """Have one container say something all the time; return when that arrives."""
        self._said = self.follow("busy")
        self._talker.start()
        assert eventually(lambda: len(self.lines("busy")) > 10)

    def _talk(self) -> None:
        while not self._talking.wait(0.002):
            self._said.write(b"me again")

    def close(self) -> None:
        self._talking.set()
        if self._talker.ident is not None:
            self._talker.join()
        self.keeper.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    found = Node(tmp_path)
    found.keeper.start()
    yield found
    found.close()


def test_a_log_that_cannot_be_watched_is_looked_at_however_busy_others_are(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Inotify.add

    def limited(self: Inotify, path: str, mask: int) -> int:
        if "/quiet/" in path:
            raise OSError(errno.ENOSPC, "no more watches")
        return add(self, path, mask)

    monkeypatch.setattr(Inotify, "add", limited)
    quiet = node.follow("quiet")
    node.talk()
    for number in range(2):
        quiet.write(b"%d" % number)
        assert eventually(lambda number=number: len(node.lines("quiet")) == number + 1)


def test_a_log_that_cannot_be_read_holds_no_other(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pump = Tail.pump
    failed: list[str] = []

    def broken(self: Tail) -> bool:
        if self.id == "broken":
            failed.append(self.id)
            raise OSError(errno.EIO, "the disk is ill")
        return pump(self)

    monkeypatch.setattr(Tail, "pump", broken)
    node.follow("broken").write(b"x")
    assert eventually(lambda: failed)
    node.talk()
