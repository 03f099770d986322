# SPDX-License-Identifier: Apache-2.0
"""What control groups this host has: version 1, version 2 or both, which controllers where, and paths within them.

Pure parsing plus `detect_layout`, which reads mountinfo. Making and filling groups is `group`'s business.
Source: cgroups(7), kernel docs admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

import os

from oakum.errors import InvalidArgument, Unimplemented
from oakum.linux.durable import read_file
from oakum.model.light import TYPE_CHECKING, NamedTuple, once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

# Options in a v1 mount's super block that are not controllers.
_V1_OPTIONS: Final = frozenset(
    {"rw", "ro", "noprefix", "clone_children", "xattr", "release_agent", "cpuset_v2_mode"}
)


class Hierarchy(NamedTuple):
    """One mounted tree. `controllers` is empty for a v1 tree without any ("name=systemd")."""

    mountpoint: str
    version: int
    controllers: tuple[str, ...]
    name: str = ""


class Layout(NamedTuple):
    """All trees of the host; `mode` is "v1", "v2" or "hybrid"."""

    mode: str
    hierarchies: tuple[Hierarchy, ...]

    @property
    def unified(self) -> Hierarchy | None:
        """The v2 tree, if there is one."""
        return next((h for h in self.hierarchies if h.version == 2), None)

    def of(self, controller: str) -> Hierarchy | None:
        """The tree that has `controller`."""
        return next((h for h in self.hierarchies if controller in h.controllers), None)


@once
def detect_layout() -> Layout:
    """The host's layout, read once per process.

    Raises:
        Unimplemented: no control groups are mounted.
    """
    mounts = list(parse_mountinfo(os.fsdecode(read_file("/proc/self/mountinfo"))))
    trees: list[Hierarchy] = []
    for tree in mounts:
        if tree.version == 2:
            words = read_file(f"{tree.mountpoint}/cgroup.controllers").decode().split()
            tree = tree._replace(controllers=tuple(words))  # noqa: PLW2901 - the same tree, completed
        if not any(
            t.controllers == tree.controllers and t.name == tree.name and t.version == tree.version
            for t in trees
        ):
            trees.append(tree)
    return assemble(trees)


def assemble(trees: list[Hierarchy]) -> Layout:
    """The layout made of these trees. Raises Unimplemented when there is none."""
    versions = {tree.version for tree in trees if tree.controllers or tree.version == 2}
    if not versions:
        raise Unimplemented(
            "find control groups", "/sys/fs/cgroup", "none is mounted", hint="mount cgroup2 on /sys/fs/cgroup"
        )
    mode = "hybrid" if versions == {1, 2} else f"v{versions.pop()}"
    return Layout(mode, tuple(trees))


def parse_mountinfo(text: str) -> Iterator[Hierarchy]:
    """The cgroup mounts in the text of /proc/PID/mountinfo.

    Source: proc_pid_mountinfo(5).
    """
    for line in text.splitlines():
        if "cgroup" not in line:
            continue  # most are not
        left, separator, right = line.partition(" - ")
        fields, after = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5 or len(after) < 3:
            continue
        mountpoint = _unescape(fields[4])
        if after[0] == "cgroup2":
            yield Hierarchy(mountpoint, 2, ())
        elif after[0] == "cgroup":
            options = after[2].split(",")
            name = next((o.removeprefix("name=") for o in options if o.startswith("name=")), "")
            controllers = tuple(o for o in options if o not in _V1_OPTIONS and "=" not in o)
            yield Hierarchy(mountpoint, 1, controllers, name)


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def normalise_path(path: str) -> str:
    """`path` as a clean absolute path below each tree's root; "slice:prefix:name" becomes what systemd would make.

    Raises:
        InvalidArgument: the path is the root itself or climbs out of it.
    """
    if path.count(":") == 2 and "/" not in path:
        path = systemd_path(*path.split(":"))
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not names or ".." in names:
        raise InvalidArgument("use cgroup", repr(path), "not a path below the root cgroup")
    if any(len(name) > 255 or "\n" in name for name in names):
        raise InvalidArgument("use cgroup", repr(path), "a name in it is not valid")
    return "/" + "/".join(names)


def systemd_path(slice_name: str, prefix: str, name: str) -> str:
    """The cgroupfs path of unit `prefix-name.scope` (or slice `name`) in a slice.

    "a-b.slice" lies in "a.slice". Source: systemd.slice(5).

    Raises:
        InvalidArgument: the slice's name is not valid.
    """
    slice_name = slice_name or "system.slice"
    directories: list[str] = []
    stem = ""
    if slice_name != "-.slice":
        for part in slice_name.removesuffix(".slice").split("-"):
            if not part or not slice_name.endswith(".slice"):
                raise InvalidArgument("use cgroup", repr(slice_name), "not the name of a systemd slice")
            stem = f"{stem}-{part}" if stem else part
            directories.append(f"{stem}.slice")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return "/" + "/".join([*directories, unit])
