# SPDX-License-Identifier: Apache-2.0
"""The directory of network configurations: what is in it now, read again only when a file in it has changed."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from oakum.errors import FailedPrecondition, NotFound, OakumError, SystemFailure
from oakum.network.cni.config import (
    FILE_LIMIT_BYTES,
    NetworkList,
    Plugin,
    load_object,
    parse_list,
    parse_plugin,
    with_plugins,
)
from oakum.network.settings import CONFIG_ENDINGS

_Mark = tuple[str, int, int, int]


class Loaded(NamedTuple):
    """What a look into the directory gave: networks in the order of their files, and what is wrong with the others."""

    networks: tuple[NetworkList, ...]
    problems: tuple[OakumError, ...]
    first_problem: OakumError | None


class ConfigDirectory:
    """Configurations by name. Thread-safe."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._marks: tuple[_Mark, ...] | None = None
        self._loaded = Loaded((), (), None)

    def networks(self) -> Loaded:
        """What is there now; some 30 microseconds when nothing has changed."""
        with self._guard:
            marks = self._look()
            if marks != self._marks:
                self._loaded = self._load()
                self._marks = marks
            return self._loaded

    def default(self) -> NetworkList:
        """The network of the first file. A file that is wrong is not passed over for the next one.

        Raises:
            NotFound: there is none.
            InvalidArgument: the first is wrong.
        """
        loaded = self.networks()
        if loaded.first_problem is not None:
            raise loaded.first_problem
        if not loaded.networks:
            raise NotFound(
                "find CNI configuration",
                self.path,
                "no network configuration is there",
                hint="a network add-on puts one there",
            )
        return loaded.networks[0]

    def named(self, name: str) -> NetworkList:
        """The network called `name`; of two files that describe it, the first counts. Raises NotFound."""
        loaded = self.networks()
        for network in loaded.networks:
            if network.name == name:
                return network
        for problem in loaded.problems:
            raise NotFound("find network", repr(name), f"not among the readable files: {problem.brief}")
        raise NotFound("find network", repr(name), f"no such network in {self.path}")

    def _look(self) -> tuple[_Mark, ...]:
        names = _files(self.path)
        marks = [_mark(self.path, name) for name in names]
        # Directories of further plugins, named like networks: which ones matter is known only after reading.
        for name in _directories(self.path):
            inner = f"{self.path}/{name}"
            marks += [_mark(inner, each) for each in _files(inner)]
        return tuple(marks)

    def _load(self) -> Loaded:
        networks: list[NetworkList] = []
        problems: list[OakumError] = []
        first_problem: OakumError | None = None
        for name in _files(self.path):
            try:
                networks.append(self._read(name))
            except OakumError as error:
                problems.append(error)
                if not networks and first_problem is None:
                    first_problem = error
        return Loaded(tuple(networks), tuple(problems), first_problem)

    def _read(self, name: str) -> NetworkList:
        path = f"{self.path}/{name}"
        network = parse_list(_contents(path), path)
        more: list[Plugin] = []
        # CNI specification 1.1, "loadOnlyInlinedPlugins".
        inner = f"{self.path}/{network.name}"
        if not network.only_inlined and name.endswith(".conflist") and os.path.isdir(inner):
            for each in _files(inner):
                found = load_object(_contents(f"{inner}/{each}"), f"{inner}/{each}")
                more.append(parse_plugin(found, f"{inner}/{each}", "the file"))
        return with_plugins(network, more)


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise FailedPrecondition("read CNI configuration", path, "it vanished while it was read") from error
    except OSError as error:
        raise SystemFailure.from_os_error(error, "read CNI configuration", path) from error


def _files(path: str) -> list[str]:
    return sorted(name for name in _names(path, "files") if name.endswith(CONFIG_ENDINGS))


def _directories(path: str) -> list[str]:
    return sorted(_names(path, "directories"))


def _names(path: str, kind: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [each.name for each in entries if each.is_dir() == (kind == "directories")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SystemFailure.from_os_error(error, "list CNI configurations", path) from error


def _mark(directory: str, name: str) -> _Mark:
    """What changes when a file does."""
    try:
        found = os.stat(f"{directory}/{name}")
    except OSError:
        return (f"{directory}/{name}", 0, 0, 0)  # reading it will say why
    return (f"{directory}/{name}", found.st_mtime_ns, found.st_size, found.st_ino)
