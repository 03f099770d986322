# SPDX-License-Identifier: Apache-2.0
"""Removal of a container from Docker until it is gone, also where Docker itself stumbles.

A dockerd that was killed forgets what it had mounted for a container and then cannot remove it ("device or resource
busy", the container stays as "dead"). The mount is of no use to anybody: it is unmounted here, and Docker asked again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from oakum.docker.client import DockerClient
from oakum.errors import FailedPrecondition, NotFound, SystemFailure
from oakum.linux.mount import unmount

_CALL_S: Final = 60.0
_GONE_S: Final = 30.0
_POLL_S: Final = 0.05
_BUSY: Final = "failed to remove root filesystem"


def remove_from_docker(client: DockerClient, container_id: str) -> None:
    """Remove a container with its anonymous volumes, killed if it runs; succeeds for what is gone. Raises OakumError."""
    deadline = time.monotonic() + _GONE_S
    while True:
        try:
            client.delete(f"/containers/{container_id}", query={"force": 1, "v": 1}, deadline_s=_CALL_S)
            return
        except NotFound:
            return
        except FailedPrecondition:
            # "removal is already in progress": by whoever it is, its end is what was asked for
            if time.monotonic() > deadline:
                raise
        except SystemFailure as error:
            if _BUSY not in error.cause or time.monotonic() > deadline or not _let_go(client, container_id):
                raise
        time.sleep(_POLL_S)


def _let_go(client: DockerClient, container_id: str) -> bool:
    """Unmount the root of a container that does not run; whether Docker still knows it. Raises OakumError."""
    try:
        found: Mapping[str, Any] = client.get(f"/containers/{container_id}/json")
    except NotFound:
        return True
    data: Mapping[str, str] | None = (found.get("GraphDriver") or {"Data": None})["Data"]
    merged = data.get("MergedDir", "") if data else ""
    root = os.path.realpath(client.get("/info")["DockerRootDir"])
    if found["State"]["Running"] or not os.path.realpath(merged).startswith(f"{root}/"):
        return False
    try:
        unmount(merged, detach=True)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted (any more)
            raise SystemFailure.from_os_error(error, "unmount", merged) from error
    return True
