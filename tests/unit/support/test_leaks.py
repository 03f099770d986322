# SPDX-License-Identifier: Apache-2.0
"""The leak check finds what a careless test leaves, and says nothing about a careful one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support import leaks
from tests.support.patience import eventually
from tests.support.reaper import reaper_pid

# starts a sleeper that detaches itself as a zygote does, and tells its pid
_DETACH = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.close(1)
        os.execvp("sleep", ["sleep", "60"])
    os._exit(0)
os.wait()
"""


def test_a_careful_test_leaves_nothing(tmp_path: Path) -> None:
    before = leaks.take(str(tmp_path))
    subprocess.run(["true"], check=True)
    with socket.socket() as _, (tmp_path / "f").open("w") as _:
        pass
    assert leaks.leaked(before, str(tmp_path)) == []


def test_a_detached_process_is_found_and_ended(tmp_path: Path) -> None:
    assert reaper_pid() == os.getppid()
    before = leaks.take(str(tmp_path))
    started = subprocess.run([sys.executable, "-c", _DETACH], check=True, stdout=subprocess.PIPE, text=True)
    pid = int(started.stdout)
    assert leaks.leaked(before, str(tmp_path), wait_s=0) == [f"process {pid}: sleep 60"]
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_an_open_file_and_a_socket_are_found(tmp_path: Path) -> None:
    before = leaks.take(str(tmp_path))
    with socket.socket(), (tmp_path / "f").open("w"):
        found = leaks.leaked(before, str(tmp_path), wait_s=0)
    assert sorted(found) == [
        f"descriptor of the test process: {tmp_path}/f",
        "descriptor of the test process: socket",
    ]
