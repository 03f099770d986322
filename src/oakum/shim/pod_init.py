# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a pod that shares its process ids: it reaps orphans and can do nothing else.

It stands in the containers' view, so it lets go of everything first: descriptors, the host's files (its root is an
empty read-only tmpfs), user 0, all privileges.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from oakum.linux import mount, namespaces, process
from oakum.oci.spec import IdMapping

# Any number that is not root will do; the one that the images of pause processes use is known to policies.
_NOBODY: Final = 65535


def nobody(mappings: tuple[IdMapping, ...]) -> int:
    """An id that is not root's and exists in a user namespace with these mappings (none: the host's)."""
    largest = max((m["containerID"] + m["size"] - 1 for m in mappings), default=_NOBODY)
    return min(largest, _NOBODY)


def run(sandbox_id: str, uid: int, gid: int) -> int:
    """Reap until killed from outside the pid namespace."""
    title = f"oakum init {sandbox_id}"
    process.set_name("oakum init")
    process.set_title(title)
    for number in (signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    _leave_host(uid, gid)
    process.close_from(0)
    while True:
        _reap()
        signal.sigwait({signal.SIGCHLD})


def _leave_host(uid: int, gid: int) -> None:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.set_propagation("/", mount.MS_REC | mount.MS_PRIVATE)
    with mount.new_filesystem("tmpfs", [("mode", "555"), ("size", "4096")], source="oakum") as root:
        mount.set_attributes(root.fileno(), set_flags=mount.ATTR_RDONLY)
        # A new root has to be a mount point of this namespace: any directory will do to put it on.
        directory_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.move_mount(root.fileno(), directory_fd, target="/proc")
        os.close(directory_fd)
        mount.enter_root(root.fileno())
    process.set_no_new_privs()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # from user 0 to another: the kernel drops every capability


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return
