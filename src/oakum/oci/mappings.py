# SPDX-License-Identifier: Apache-2.0
"""Writing the id maps of a new user namespace: directly with the right to, else by newuidmap and newgidmap.

Source: user_namespaces(7), newuidmap(1).
"""

from __future__ import annotations

import os

from oakum.errors import SystemFailure, Unimplemented
from oakum.model.light import TYPE_CHECKING
from oakum.oci.spec import IdMapping, Linux

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_HELPERS: Final = {"uid_map": "newuidmap", "gid_map": "newgidmap"}


def write_mappings(pid: int, linux: Linux) -> None:
    """Map the ids of the user namespace that `pid` was born in. Raises SystemFailure, Unimplemented."""
    for file, own, mappings in (
        ("uid_map", os.geteuid(), linux.get("uidMappings") or []),
        ("gid_map", os.getegid(), linux.get("gidMappings") or []),
    ):
        if os.geteuid() == 0:
            _write_text(f"/proc/{pid}/{file}", map_text(mappings))
        elif len(mappings) == 1 and mappings[0]["size"] == 1 and mappings[0]["hostID"] == own:
            # Everybody may map the own id; the own group only once nobody can drop groups any more.
            if file == "gid_map":
                _write_text(f"/proc/{pid}/setgroups", "deny")
            _write_text(f"/proc/{pid}/{file}", map_text(mappings))
        else:
            _ask_helper(_HELPERS[file], pid, mappings)


def map_text(mappings: Sequence[IdMapping]) -> str:
    """What to write to a namespace's uid_map or gid_map."""
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)


def _write_text(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as failure:
        raise SystemFailure.from_os_error(
            failure, "write", path, hint="do the mappings overlap?"
        ) from failure


def _ask_helper(name: str, pid: int, mappings: list[IdMapping]) -> None:
    numbers = [str(m[member]) for m in mappings for member in ("containerID", "hostID", "size")]
    try:
        child = os.posix_spawnp(name, [name, str(pid), *numbers], os.environ)
    except FileNotFoundError as failure:
        raise Unimplemented(
            "map ids",
            name,
            "not installed, and without root only the own id can be mapped without it",
            hint="install the package uidmap",
        ) from failure
    except OSError as failure:
        raise SystemFailure.from_os_error(failure, "run", name) from failure
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise SystemFailure(
            "map ids",
            " ".join([name, *numbers]),
            f"exit status {code}",
            hint="see /etc/subuid and /etc/subgid",
        )


def drop_groups() -> None:
    """Leave all supplementary groups, but where the namespace forbids that for ever. Raises OSError."""
    try:
        os.setgroups(())
    except PermissionError:
        # Mapped without privilege: then the groups stay, unmapped, and give no right inside.
        with open("/proc/self/setgroups", encoding="utf-8") as file:
            if file.read().strip() != "deny":
                raise
