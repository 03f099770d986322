# SPDX-License-Identifier: Apache-2.0
"""Who removes a container of `oakum run -d --rm` when nobody is there any more: a small process that waits for it.

It imports the standard library and the shim's client only, waits, and becomes `oakum rm`. When it is killed the
container is kept after its end and `oakum gc` removes it, by the annotation that --rm left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oakum.cli.session import Session


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


def _wait(directory: str, container_id: str) -> None:
    from oakum.errors import OakumError
    from oakum.shim.client import ShimClient

    try:
        with ShimClient.connect(directory) as shim:
            shim.wait(container_id)
    except OakumError:
        # no shim, or no such container: it has ended, and removing it is all the same
        return


def main(arguments: list[str]) -> None:
    """Wait for the container, then become the command that removes it."""
    root, state, namespace, sandbox_id, container_id = arguments
    _wait(f"{state}/pods/{sandbox_id}", container_id)
    command = ["--root", root, "--state", state, "--namespace", namespace, "rm", "--force", container_id]
    os.execv(sys.executable, [sys.executable, "-m", "oakum.cli.main", *command])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
