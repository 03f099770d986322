# SPDX-License-Identifier: Apache-2.0
"""What a container has changed in its root file system, as `oakum diff` lists it: from its upper directory, by descriptor.

Both trees are hostile: no link in them is followed. The container may go on writing; what is listed was there at some moment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from typing import NamedTuple

from oakum.engine import creation
from oakum.engine.catalog import Catalog
from oakum.engine.context import Context
from oakum.engine.imageviews import is_opaque
from oakum.engine.volumes import image_tree
from oakum.errors import FailedPrecondition, SystemFailure, Unimplemented
from oakum.linux.fd import Fd

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 256


class Change(NamedTuple):
    """One path: "A" added, "C" changed, "D" deleted."""

    kind: str
    path: str


def changes(context: Context, catalog: Catalog, container_id: str) -> list[Change]:
    """What differs from the image, by path; places of mounts that were made for the start are left out.

    Raises:
        NotFound: no such container.
        FailedPrecondition: its directories are nested too deeply.
        Unimplemented: its root file system is a copy, of which nobody noted what changed.
    """
    record = catalog.need(catalog.find(container_id).id)
    source = context.snapshotter.container_source(record.id)
    if not source.lower:
        raise Unimplemented(
            "list changes",
            record.config.metadata.name,
            "its root file system is a copy of the image, not an overlay",
            hint="`oakum info` says why there is no overlay here",
        )
    places = {str(mount["destination"]) for mount in creation.config_of(context, record.id)["mounts"]}
    comparison = _Comparison(places)
    try:
        with Fd(os.open(source.upper, _DIRECTORY)) as upper, image_tree(source) as lower:
            comparison.directory(upper.fileno(), lower.fileno(), "")
    except OSError as error:
        raise SystemFailure.from_os_error(error, "list changes", record.id[:12]) from error
    return sorted(comparison.found, key=lambda change: change.path.split("/"))


class _Comparison:
    """What was found so far; `places` are where mounts were made for the start."""

    def __init__(self, places: Collection[str]) -> None:
        self.found: list[Change] = []
        self._places = places

    def directory(self, upper_fd: int, lower_fd: int, path: str) -> None:
        """Compare one directory; `lower_fd` -1 where the image has none."""
        if path.count("/") > _DEEPEST:
            raise FailedPrecondition("list changes", path[:80], f"more than {_DEEPEST} directories deep")
        names = os.listdir(upper_fd)
        if lower_fd >= 0 and is_opaque(upper_fd):
            self.found += [Change("D", f"{path}/{name}") for name in set(os.listdir(lower_fd)) - set(names)]
        for name in names:
            now = _look(upper_fd, name)
            if now is not None:
                self._entry(upper_fd, lower_fd, f"{path}/{name}", now)

    def _entry(self, upper_fd: int, lower_fd: int, path: str, now: os.stat_result) -> None:
        name = path.rpartition("/")[2]
        before = _look(lower_fd, name) if lower_fd >= 0 else None
        if stat.S_ISCHR(now.st_mode) and now.st_rdev == 0:
            if before is not None:
                self.found.append(Change("D", path))
            return
        known = len(self.found)
        if stat.S_ISDIR(now.st_mode):
            had_one = before is not None and stat.S_ISDIR(before.st_mode)
            self._inside(upper_fd, lower_fd if had_one else -1, path)
            if before is not None and had_one and len(self.found) == known and _alike(before, now):
                return  # copied up for something that was left out, or is gone again
        if before is not None:
            self.found.append(Change("C", path))
        elif path not in self._places or len(self.found) > known:
            self.found.append(Change("A", path))

    def _inside(self, upper_fd: int, lower_fd: int, path: str) -> None:
        name = path.rpartition("/")[2]
        try:
            opened = Fd(os.open(name, _DIRECTORY, dir_fd=upper_fd))
        except (FileNotFoundError, NotADirectoryError):
            return  # the container has removed it since we looked
        with opened as inner:
            if lower_fd < 0:
                self.directory(inner.fileno(), -1, path)
                return
            with Fd(os.open(name, _DIRECTORY, dir_fd=lower_fd)) as inner_lower:
                self.directory(inner.fileno(), inner_lower.fileno(), path)


def _alike(before: os.stat_result, now: os.stat_result) -> bool:
    return (before.st_mode, before.st_uid, before.st_gid) == (now.st_mode, now.st_uid, now.st_gid)


def _look(directory_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
