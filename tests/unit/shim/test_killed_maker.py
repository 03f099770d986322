# SPDX-License-Identifier: Apache-2.0
"""A worker that is killed when it has made a container, and before it could say so: nothing of that stays."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import NoReturn

from oakum.errors import OakumError
from oakum.linux import process
from oakum.shim import cleanup
from oakum.shim.container import Container
from oakum.shim.loop import Loop
from oakum.shim.pod import Makers, Pod
from oakum.shim.requests import ContainerRequest


def test_what_a_killed_worker_has_made_ends(tmp_path: Path) -> None:
    loop, directory = Loop(), str(tmp_path)
    told: list[OakumError] = []
    gone: list[Container] = []
    workers: list[int] = []

    def fork() -> int:
        workers.append(process.fork())
        return workers[0]

    def never(*_: object) -> NoReturn:
        raise AssertionError

    with subprocess.Popen(["sleep", "600"]) as made:
        try:

            def make(*_: object) -> NoReturn:
                cleanup.note_process(directory, "c1", made.pid, "")
                os.kill(os.getpid(), signal.SIGKILL)
                never()

            def failed(error: OakumError) -> None:
                told.append(error)
                loop.stop()

            pod = Pod(directory, (), Makers(fork, lambda *_: None, make, never))
            Container(loop, ContainerRequest("c1", directory), pod, gone.append).create(never, failed)
            loop.run()
            assert os.waitstatus_to_exitcode(os.waitpid(workers[0], 0)[1]) == -signal.SIGKILL
            assert made.wait(10) == -signal.SIGKILL
        finally:
            made.kill()
    assert len(gone) == 1
    assert "killed" in str(told[0])
    assert cleanup.noted(directory) == []
