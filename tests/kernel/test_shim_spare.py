# SPDX-License-Identifier: Apache-2.0
"""The shim that a zygote keeps for whoever comes next: it is taken, replaced, killed, and goes with its zygote."""

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from oakum.linux import sockets
from oakum.shim import wire
from oakum.shim.starter import hold_zygote
from tests.conftest import Directories
from tests.kernel.shim_box import Box, alive
from tests.support.patience import eventually
from tests.support.zygotes import end_zygote, zygote_pid

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def held(directories: Directories) -> Iterator[None]:
    """As by a server, which keeps the zygote and will want shims."""
    with hold_zygote(directories.state):
        yield


def spare_of(state: str) -> int:
    """The process id of the spare, once there is one; its supervisor waits by then."""
    found: list[int] = []

    def is_there() -> bool:
        with sockets.connect(state, "zygote.sock", timeout_s=60) as sock:
            said: dict[str, Any] = wire.call(sock, {"op": "ping"}, timeout_s=60, peer="zygote").value
        found[:] = [said["spare"]]
        return bool(said["spare"]) and bool(children(said["spare"]))

    eventually(is_there, "the zygote has a spare", timeout_s=20)
    return found[0]


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def title(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", encoding="ascii") as file:
        return file.read().rstrip("\0")


def lives(box: Box) -> None:
    """A container can be run in it, with what was asked for; then nothing is left."""
    box.sh("c1", "exit 3")
    assert box.shim.wait("c1", 60).exit_code == 3
    box.close()
    assert box.left() == []


def test_the_next_sandbox_gets_it_and_another_one_comes(directories: Directories, rootfs: str) -> None:
    spare = spare_of(directories.state)
    assert title(spare).startswith("oakum zygote")
    for _ in range(3):
        box = Box(directories.root, directories.state, rootfs)
        assert box.pid == spare
        eventually(lambda pid=spare, box=box: title(pid) == f"oakum shim {box.sandbox_id}", "it has its name")
        with open(f"{box.directory}/shim.pid", encoding="ascii") as file:
            assert int(file.read()) == spare
        spare = spare_of(directories.state)
        lives(box)


def test_of_many_at_once_one_gets_it_and_all_are_made(directories: Directories, rootfs: str) -> None:
    spare = spare_of(directories.state)
    with ThreadPoolExecutor(6) as pool:
        boxes = list(pool.map(lambda _: Box(directories.root, directories.state, rootfs), range(6)))
    assert [box.pid for box in boxes].count(spare) == 1
    for box in boxes:
        lives(box)


def test_pods_with_processes_and_users_of_their_own_get_it_too(directories: Directories, rootfs: str) -> None:
    spare = spare_of(directories.state)
    box = Box(directories.root, directories.state, rootfs, create_namespaces=("network", "ipc", "uts", "pid"))
    assert box.pid == spare
    lives(box)


@pytest.mark.parametrize("who", ["keeper", "supervisor", "both"])
def test_one_that_was_killed_is_not_missed(directories: Directories, rootfs: str, who: str) -> None:
    spare = spare_of(directories.state)
    victims = {"keeper": [spare], "supervisor": children(spare), "both": [*children(spare), spare]}[who]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # the death of one is the other's
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(spare), "the keeper has ended")
    box = Box(directories.root, directories.state, rootfs)
    assert box.pid != spare
    lives(box)


def test_it_refuses_what_cannot_be_and_leaves_nothing(directories: Directories, rootfs: str) -> None:
    spare = spare_of(directories.state)
    with pytest.raises(Exception, match="no such namespace"):
        Box(directories.root, directories.state, rootfs, create_namespaces=("network", "weather"))
    eventually(lambda: not alive(spare), "it has ended")
    assert spare_of(directories.state) != spare


def test_it_ends_with_its_zygote(directories: Directories) -> None:
    spare = spare_of(directories.state)
    supervisors = children(spare)
    end_zygote(directories.state)
    eventually(lambda: not any(map(alive, (spare, *supervisors))), "nothing of it is left")
    assert zygote_pid(directories.state) is None


def test_it_keeps_nothing_of_the_zygote_and_of_its_clients_open(directories: Directories) -> None:
    spare = spare_of(directories.state)
    (supervisor,) = children(spare)
    # each end of the keeper's link, and the supervisor's of the zygote's
    eventually(
        lambda: len(open_sockets(spare)) == len(open_sockets(supervisor)) == 2, "only its own are open"
    )
    zygote = zygote_pid(directories.state)
    assert zygote is not None
    assert (open_sockets(spare) | open_sockets(supervisor)).isdisjoint(open_sockets(zygote))


def open_sockets(pid: int) -> set[str]:
    held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    return {name for name in held if name.startswith("socket:")}
