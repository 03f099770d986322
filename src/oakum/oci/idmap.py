# SPDX-License-Identifier: Apache-2.0
"""User namespaces that only carry a mapping, for id-mapped mounts. Source: mount_setattr(2) "ID-mapped mounts"."""

from __future__ import annotations

import os

from oakum.errors import SystemFailure
from oakum.linux.fd import Fd
from oakum.linux.namespaces import CLONE_NEWUSER
from oakum.linux.process import clone, run_and_exit
from oakum.model.light import TYPE_CHECKING, signal
from oakum.oci.mappings import map_text
from oakum.oci.spec import IdMapping

if TYPE_CHECKING:
    from collections.abc import Sequence


def mapping_namespace(uid_mappings: Sequence[IdMapping], gid_mappings: Sequence[IdMapping]) -> Fd:
    """A descriptor of a new user namespace with these mappings; lives as long as the descriptor. Raises SystemFailure."""
    read_fd, write_fd = os.pipe()
    pid = clone(CLONE_NEWUSER)
    if pid == 0:
        os.close(write_fd)
        run_and_exit(lambda: len(os.read(read_fd, 1)))
    try:
        for file, mappings in (("uid_map", uid_mappings), ("gid_map", gid_mappings)):
            with Fd(os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)) as target:
                os.write(target.fileno(), map_text(mappings).encode())
        return Fd(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "map ids", f"/proc/{pid}") from failure
    finally:
        os.close(read_fd)
        os.close(write_fd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
