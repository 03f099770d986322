# SPDX-License-Identifier: Apache-2.0
"""An overlay whose layers are id-mapped: a root file system for a container of another user namespace.

The files of images belong to root on the disk; through the mapping they belong to the container's root. Nothing is copied
or given to another owner, so layers stay shared with all containers. What the container writes has its users' ids as
the host sees them: overlay makes files of its own in the upper directory as us, whom the mapping does not know.

Overlay takes a layer only from a mount that is attached (kernels before 6.15 do), so the mapped mounts are attached
in a mount namespace of a child's own, which goes with it. The overlay stays: it holds its layers by itself.
Source: mount_setattr(2) "ID-mapped mounts"; overlay on them: kernel 5.19.
"""

from __future__ import annotations

import os

from oakum.errors import SystemFailure, Unavailable, from_dict
from oakum.linux import mount as m
from oakum.linux import process
from oakum.linux.fd import Fd
from oakum.linux.namespaces import CLONE_NEWNS
from oakum.model.rootfs import RootfsSource
from oakum.oci.handover import guard
from oakum.oci.wire import Channel


def open_mapped_overlay(source: RootfsSource, user_fd: int) -> Fd:
    """The overlay of `source`, detached, with ids as the user namespace `user_fd` maps them. Raises SystemFailure."""
    ours, theirs = Channel.pair()

    def body() -> None:
        ours.close()
        with _mount(source, user_fd) as tree:
            theirs.send("mounted", fds=(tree.fileno(),))
        os._exit(0)

    try:
        pid = process.clone(CLONE_NEWNS)
        if pid == 0:
            process.run_and_exit(guard(theirs, body))
    except OSError as failure:
        ours.close()
        raise SystemFailure.from_os_error(failure, "clone", "id-mapped root file system") from failure
    finally:
        theirs.close()
    try:
        told = ours.receive()
    finally:
        ours.close()
        os.waitpid(pid, 0)
    if told is not None and told.kind == "mounted":
        return told.fds[0]
    raise (
        from_dict(told.body["error"])
        if told
        else Unavailable("mount", "root file system", "its child was killed")
    )


def _mount(source: RootfsSource, user_fd: int) -> Fd:
    m.set_propagation("/", m.MS_REC | m.MS_PRIVATE)
    trees = [_mapped(path, user_fd) for path in source.lower]
    # Covers the topmost layer for this process alone; all that is needed of it is open.
    place = source.lower[0]
    with m.new_filesystem("tmpfs", [("mode", "700")], source="oakum") as scratch:
        with Fd(os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as below:
            m.move_mount(scratch.fileno(), below.fileno(), target=place)
        for number, tree in enumerate(trees):
            name = str(number)
            os.mkdir(name, 0o700, dir_fd=scratch.fileno())
            with tree, Fd(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=scratch.fileno())) as target:
                m.move_mount(tree.fileno(), target.fileno(), target=name)
        os.fchdir(scratch.fileno())
        return m.overlay([str(number) for number in range(len(source.lower))], source.upper, source.work)


def _mapped(path: str, user_fd: int) -> Fd:
    tree = m.open_tree_at(path)
    m.set_attributes(tree.fileno(), propagation=m.MS_PRIVATE)
    m.set_attributes(tree.fileno(), userns_fd=user_fd, target=path)
    return tree
