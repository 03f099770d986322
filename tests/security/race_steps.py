# SPDX-License-Identifier: Apache-2.0
"""Steps of a root file system, repeated while another process swaps a name in it; run in a mount namespace of its own.

`python -m tests.security.race_steps KIND careful|naive ROOT OUTSIDE TRIES`. Careful is `oakum.oci.rootfs`; naive looks
first and then acts on the path. Mounts stay until the namespace goes; what lies outside is read off at the end.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import os
import stat
import struct
import sys
from collections.abc import Callable
from typing import Final

from oakum.errors import OakumError
from oakum.linux import mount as m
from oakum.oci.handover import open_console
from oakum.oci.options import MountOptions
from oakum.oci.plan import BindMount, FilesystemMount, Link, MakeDevice, Mask, Step
from oakum.oci.rootfs import Builder

_MS_BIND: Final = 4096
_DETACH: Final = 2
_TIOCGPTN: Final = 0x80045430
_PTS: Final = 136  # major number of terminals
_libc = ctypes.CDLL(None, use_errno=True)
# Few places, so that mounts do not pile up too high on any.
_PLACES: Final = 50


def _step(kind: str, number: int) -> Step:
    place = f"/name/v{number % _PLACES}"
    steps: dict[str, Step] = {
        "bind": BindMount("/etc", place, MountOptions(bind=True)),
        "tmpfs": FilesystemMount("tmpfs", "tmpfs", place, MountOptions()),
        "proc": FilesystemMount("proc", "proc", "/name", MountOptions()),
        "device": MakeDevice(f"/name/d{number}", "c", 1, 5, 0o600, 0, 0),
        "link": Link("target", f"/name/l{number}"),
        "mask": Mask("/name/secret"),
    }
    return steps[kind]


def careful(kind: str, root: str) -> Callable[[int], None]:
    """What the runtime does."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)

    def act(number: int) -> None:
        step = _step(kind, number)
        sources = {0: m.open_tree_at("/etc")} if kind == "bind" else {}
        builder = Builder(root_fd, sources, user_namespace=False, wait_for_cgroup=lambda: None)
        try:
            builder.run((step,))
        finally:
            builder.close()

    return act


def naive(kind: str, root: str) -> Callable[[int], None]:
    """What a runtime does that goes by paths."""

    def act(number: int) -> None:
        name = f"{root}/name"
        if os.path.realpath(name) != name:
            raise PermissionError(name)
        place = f"{name}/v{number % _PLACES}"
        if kind in ("bind", "tmpfs"):
            os.makedirs(place, exist_ok=True)
        if kind == "bind":
            _mount("/etc", place, "", _MS_BIND)
        elif kind == "tmpfs":
            _mount("tmpfs", place, "tmpfs", 0)
        elif kind == "proc":
            _mount("proc", name, "proc", 0)
        elif kind == "mask":
            _mount("/dev/null", f"{name}/secret", "", _MS_BIND)
        elif kind == "device":
            os.mknod(f"{name}/d{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        else:
            os.symlink("target", f"{name}/l{number}")

    return act


def console(way: str, root: str, astray: list[str]) -> Callable[[int], None]:
    """A new terminal put at /dev/console, by us or naively; `astray` gets what else came to be there."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    for name in itertools.cycle(("pts", "other")):
        directory = os.open(f"{root}/dev/{name}", os.O_RDONLY | os.O_DIRECTORY)
        if "here" in os.listdir(directory):
            _mount("devpts", f"/proc/self/fd/{directory}", "devpts", 0)
            break
        os.close(directory)

    def act(_number: int) -> None:
        if way == "careful":
            for fd in open_console(root_fd, {}, bind=True):
                fd.close()
        else:
            with open(f"{root}/dev/pts/ptmx", "r+b", buffering=0) as master:
                (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))
                _mount(f"{root}/dev/pts/{number}", f"{root}/dev/console", "", _MS_BIND)
        kind = os.major(os.stat(f"{root}/dev/console").st_rdev)
        if kind != _PTS:
            astray.append(str(kind))
        # Its terminal is gone: nothing can be mounted there any more.
        _libc.umount2(f"{root}/dev/console".encode(), _DETACH)

    return act


def _mount(source: str, target: str, fstype: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), fstype.encode(), flags, None):
        raise OSError(ctypes.get_errno(), "mount", target)


def found_outside(outside: str, before: list[str]) -> list[str]:
    """Mounts and files outside of the root."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file]
    mounts = [point for point in points if f"{point}/".startswith(f"{outside}/")]
    return mounts + [name for name in os.listdir(outside) if name not in before]


def main(kind: str, way: str, root: str, outside: str, tries: int) -> dict[str, object]:
    """Run the race."""
    before = os.listdir(outside)
    astray: list[str] = []
    if kind == "console":
        act = console(way, root, astray)
    else:
        act = careful(kind, root) if way == "careful" else naive(kind, root)
    done = refused = number = 0
    # Where the swapper gets little of the machine, long times are spent in which nothing can be won: they do not count.
    while number < (tries if way == "careful" and done >= tries // 8 else tries * 20):
        try:
            act(number)
            done += 1
        except (OSError, OakumError):
            refused += 1  # it lost the race, and did nothing
        number += 1
        if way == "naive" and number % 20 == 0 and (astray or found_outside(outside, before)):
            break
    return {"done": done, "refused": refused, "outside": astray + found_outside(outside, before)}


if __name__ == "__main__":
    step, how, top, elsewhere = sys.argv[1:5]
    print(json.dumps(main(step, how, top, elsewhere, int(sys.argv[5]))))
