# SPDX-License-Identifier: Apache-2.0
"""What a shim runs to start a container again, killed before any of its lines: the next try does the rest, once."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from oakum.backend.config import SandboxConfig, SandboxMetadata
from oakum.engine import creation
from tests.conftest import Directories
from tests.support.engines import Lab, laboratory
from tests.support.patience import eventually

# Starts a container again as its policy has it, in a child that is killed before the nth line of that (0: never), and
# says how the child ended. The shim runs nothing.
RESTARTS = """
import os, signal, sys
from oakum.engine import again, creation, restarts
from oakum.engine.engine import Engine
root, state, container = sys.argv[1:4]
request = creation.restart_request
creation.restart_request = lambda *of: request(*of)._replace(command=("/bin/true",))

def killed_at(line):
    left = line
    def trace(frame, event, arg):
        nonlocal left
        where = frame.f_code
        if where.co_filename not in (again.__file__, restarts.__file__) and where.co_name != "_start_locked":
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

for said in sys.stdin:
    child = os.fork()
    if not child:
        with Engine(root, state) as engine:
            sys.settrace(killed_at(int(said)))
            engine.namespace("k8s.io").restart_container(container)
            sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}", flush=True)
"""


@pytest.fixture(scope="module")
def lab(module_directories: Directories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(*module_directories, tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.mark.timeout(300)
def test_a_restart_killed_before_any_line_is_finished_by_the_next(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = creation.restart_request
    monkeypatch.setattr(
        creation, "restart_request", lambda *of: request(*of)._replace(command=("/bin/true",))
    )
    container = lab.cri.create_standalone(
        SandboxConfig(metadata=SandboxMetadata(name="loop"), owner="container"),
        msgspec.structs.replace(lab.container("loop", "echo run; exit 3", restart="always"), log_path=""),
    )
    lab.cri.start_container(container)
    log = Path(lab.cri.container_status(container).log_path)

    def ended() -> bool:
        now = lab.cri.container_status(container)
        return now.restarting and now.exit_code == 3

    arguments = [lab.engine.root, lab.engine.state, container]
    with subprocess.Popen(
        [sys.executable, "-c", RESTARTS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def restart(line: int) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        for line in itertools.count(1, 5):
            eventually(ended, "it has ended")
            before = lab.cri.container_status(container).restart_count
            said = restart(line)
            if line % 2:
                lab.engine.recover()  # as any command would, before the shim's next try
            if lab.cri.container_status(container).started_at_ns:
                eventually(ended, "it has ended, or was not touched")
            assert restart(0) == "exit 0"
            eventually(ended, "it has run")
            now = lab.cri.container_status(container)
            # The one that was killed may have done its work: then the second has found a further end.
            assert before < now.restart_count <= before + 2
            assert len(log.read_bytes().splitlines()) == 1 + now.restart_count
            assert lab.engine.recover() == []
            if said != "killed":
                assert said == "exit 0"
                assert line > 30
                break
        process.stdin.close()
    lab.cri.remove_container(container)
