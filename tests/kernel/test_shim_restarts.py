# SPDX-License-Identifier: Apache-2.0
"""What a shim does after the end of a container that is to run again: it waits, and runs a command until that succeeds."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.shim.requests import RestartRequest
from tests.conftest import Directories
from tests.kernel.shim_box import Box
from tests.support.patience import eventually

pytestmark = pytest.mark.root

LONG_S = 10_000.0

# Says where it runs and how many descriptors it was given; the first one that does is killed.
COMMAND = """
import os, signal, sys
given = len(os.listdir("/proc/self/fd")) - 1
with open(sys.argv[1], "a+") as file:
    print(os.readlink("/proc/self/ns/net"), os.getcwd(), given, file=file, flush=True)
    file.seek(0)
    if len(file.readlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def box(directories: Directories, rootfs: str) -> Iterator[Box]:
    made = Box(directories.root, directories.state, rootfs)
    yield made
    made.close()
    assert made.left() == []


def command(script: str, policy: str = "always", *, times: int = 0, delay_s: float = 0.0) -> RestartRequest:
    return RestartRequest(policy, times, delay_s, ("/bin/sh", "-c", script))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_the_command_runs_on_the_host_and_again_until_it_succeeds(box: Box, tmp_path: Path) -> None:
    said = tmp_path / "said"
    asked = RestartRequest("always", 0, 0.0, (sys.executable, "-I", "-S", "-c", COMMAND, str(said)))
    box.sh("c1", "exec sleep 1000", restart=asked)
    box.rest()  # another supervisor sees the end
    assert lines(said) == []
    box.wake()
    box.shim.kill("c1", signal.SIGKILL)
    eventually(lambda: len(lines(said)) == 2, "a try that fails, and one that does not")
    box.rest()  # nothing is under way any more
    assert lines(said) == [f"{os.readlink('/proc/self/ns/net')} / 3"] * 2
    box.wake()


def test_no_command_follows_what_was_stopped_or_is_not_wanted(box: Box, tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f"echo no >> {said}"
    box.sh("stopped", "exec sleep 1000", restart=command(script))
    box.sh("fine", "exit 0", restart=command(script, "on-failure"))
    box.sh("often", "exit 1", restart=command(script, "on-failure:2", times=2))
    box.sh("changed", "exec sleep 1000", restart=command(script))
    box.shim.change_restart("changed", command(script, ""))
    box.shim.kill("changed", signal.SIGKILL)
    box.shim.stop("stopped", signal.SIGKILL, 0)
    for name in ("stopped", "fine", "often", "changed"):
        box.shim.wait(name, 60)
    # a pause of minutes ends with the container: else the supervisor could not leave
    box.sh("deleted", "exit 1", restart=command(script, delay_s=LONG_S))
    box.shim.wait("deleted", 60)
    box.shim.delete("deleted")
    box.rest()
    assert lines(said) == []
    # and one that is asked for late is followed
    box.wake()
    box.sh("late", "exec sleep 1000")
    box.shim.change_restart("late", command(script))
    box.shim.kill("late", signal.SIGKILL)
    eventually(lambda: lines(said) == ["no"], "the command")
