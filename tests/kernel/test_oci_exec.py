# SPDX-License-Identifier: Apache-2.0
"""A further process in a running container: joins all it has, and gets nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.errors import CommandNotRunnable, FailedPrecondition, NotFound, SystemFailure
from oakum.oci.execution import ExecRequest, spawn_exec
from tests.kernel.oci_box import Box, Running

pytestmark = [pytest.mark.root, pytest.mark.cgroup]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    box = Box(str(tmp_path))
    with Running(box, box.spec("sleep", "100")) as container:
        yield container


def test_it_is_in_every_namespace_and_cgroup_of_the_container(running: Running) -> None:
    script = (
        "for n in mnt pid ipc uts net cgroup user; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup"
    )
    seen = running.exec("sh", "-c", script).text.splitlines()
    assert seen[:7] == [
        os.readlink(f"/proc/{running.pid}/ns/{n}")
        for n in ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user")
    ]
    # Within the cgroup namespace the container's own group is the root.
    assert {line.split(":", 2)[2] for line in seen[7:]} == {"/"}


def test_output_exit_code_and_identity(running: Running) -> None:
    result = running.exec("sh", "-c", "id -u; id -g; echo $HOME; exit 7", user="33:44")
    assert (result.text.split(), result.code) == (["33", "44", "/var/www"], 7)
    named = running.exec("id", "-G", user="web")
    assert named.text.split() == ["33", "44"]
    with pytest.raises(NotFound, match="no-one-here"):
        running.exec("true", user="no-one-here")


def test_capabilities_and_no_new_privs_are_those_of_the_process(running: Running) -> None:
    text = running.exec(
        "grep", "-E", "Cap(Eff|Bnd)|NoNew", "/proc/self/status", process={"capabilities": {}}
    ).text
    assert [line.split()[1] for line in text.splitlines()] == ["0" * 16, "0" * 16, "1"]


def test_commands_that_cannot_run(running: Running) -> None:
    with pytest.raises(CommandNotRunnable, match=r'exec: "nope": executable file not found in \$PATH'):
        running.exec("nope")
    with pytest.raises(SystemFailure, match="chdir /nowhere"):
        running.exec("true", process={"cwd": "/nowhere"})


def test_a_terminal_comes_from_the_containers_devpts(running: Running) -> None:
    size = {"height": 33, "width": 77}
    result = running.exec(
        "sh",
        "-c",
        "tty; stty size; ps -o tty,comm | grep -c sh",
        process={"terminal": True, "consoleSize": size},
    )
    assert result.text.replace("\r", "").split("\n")[:2] == ["/dev/pts/0", "33 77"]


def test_no_descriptor_of_the_caller_gets_in(running: Running) -> None:
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        seen = set(running.exec("ls", "/proc/self/fd").text.split())
    finally:
        os.close(leak)
    assert seen <= {"0", "1", "2", "3"}


def test_a_container_that_has_ended_is_a_clear_error(tmp_path: Path) -> None:
    box = Box(str(tmp_path))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(FailedPrecondition, match="has ended"):
        spawn_exec(ExecRequest(child, box.spec("true")["process"]))  # pyright: ignore[reportArgumentType]


def test_exec_while_a_fork_bomb_hits_its_limit_is_still_an_error_or_runs(tmp_path: Path) -> None:
    box = Box(str(tmp_path))
    with Running(box, box.spec("sleep", "100", linux={"resources": {"pids": {"limit": 1}}})) as container:
        result = container.exec("sh", "-c", "echo in; sleep 0 || echo no fork")
        assert result.text.startswith("in\n")
        assert "fork" in result.text


def test_exec_into_a_user_namespace_is_root_of_it(tmp_path: Path) -> None:
    box = Box(str(tmp_path))
    for directory, _, files in os.walk(box.rootfs):
        os.chown(directory, 100000, 100000)
        for name in files:
            os.chown(os.path.join(directory, name), 100000, 100000, follow_symlinks=False)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    spec = box.spec("sleep", "100")
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = mapping
    with Running(box, spec) as container:
        assert container.exec("sh", "-c", "id -u; cat /proc/self/uid_map").text.split() == [
            "0",
            "0",
            "100000",
            "65536",
        ]
        assert os.stat(f"/proc/{container.pid}").st_uid == 100000
