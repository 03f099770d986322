# SPDX-License-Identifier: Apache-2.0
"""Who removes a container of `oakum run -d --rm` when nobody is there any more: a small process that waits for it.

It imports the standard library and the shim's client only, waits, and becomes `oakum rm`. When it is killed the
container is kept after its end and `oakum gc` removes it, by the annotation that --rm left. An end that is part of
`oakum restart` is none: who restarts holds the container's directory until it runs again.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from oakum.engine.layout import Layout

if TYPE_CHECKING:
    from oakum.cli.session import Session

_PAUSE_S: Final = 0.2


@contextmanager
def held(root: str, state: str, container_id: str) -> Generator[str | None]:
    """The container's directory, and nobody who reaps decides meanwhile; None when it is gone."""
    bundle = Layout(root, state).bundle(container_id)
    try:
        fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield bundle
    finally:
        os.close(fd)


def leave_reaper(session: Session, container_id: str, sandbox_id: str) -> None:
    """Start the waiting process, away from this terminal and session."""
    subprocess.Popen(
        [
            sys.executable,
            "-m",
            "oakum.cli.reaper",
            os.path.abspath(session.root),
            os.path.abspath(session.state),
            session.namespace_name,
            sandbox_id,
            container_id,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        close_fds=True,
    )


def _wait(directory: str, container_id: str) -> bool:
    """Wait for its end; False when there is no shim that knows it."""
    from oakum.errors import OakumError
    from oakum.shim.client import ShimClient

    try:
        with ShimClient.connect(directory) as shim:
            shim.wait(container_id)
    except OakumError:
        return False
    return True


def _wait_for_the_last_end(root: str, state: str, sandbox_id: str, container_id: str) -> None:
    while True:
        known = _wait(f"{state}/pods/{sandbox_id}", container_id)
        with held(root, state, container_id) as bundle:
            if bundle is None or os.path.exists(f"{bundle}/exit.json"):
                return
        if not known:
            return
        # started again, most likely: at the latest the next answer of its shim says so
        time.sleep(_PAUSE_S)


def main(arguments: list[str]) -> None:
    """Wait for the container, then become the command that removes it."""
    root, state, namespace, sandbox_id, container_id = arguments
    _wait_for_the_last_end(root, state, sandbox_id, container_id)
    command = ["--root", root, "--state", state, "--namespace", namespace, "rm", "--force", container_id]
    os.execv(sys.executable, [sys.executable, "-m", "oakum.cli.main", *command])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
