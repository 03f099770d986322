# SPDX-License-Identifier: Apache-2.0
"""`--restart`: what ends runs again as its policy says, what a user stops stays stopped, and no kill -9 is a trap."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from oakum.backend.config import (
    ContainerConfig,
    ContainerMetadata,
    NamespaceOptions,
    SandboxConfig,
    SandboxMetadata,
)
from oakum.backend.status import ContainerStatus
from oakum.engine.engine import Engine
from oakum.engine.namespace import Namespace
from tests.kernel.cli_box import Box, opened
from tests.support.patience import eventually, patient

# Says which run it is, and ends as soon as it is told to: from the moment on when it has said so.
SERVER = "trap 'exit 0' TERM; echo x >> /kept; echo run $(wc -l < /kept); while :; do sleep 0.05; done"


class Shop(NamedTuple):
    """The command line for what users do, and the engine for looking, which is quicker."""

    box: Box
    containers: Namespace

    def look(self, name: str) -> ContainerStatus:
        return self.containers.find_container(name)

    def log(self, name: str) -> list[bytes]:
        return [line.data for line in self.containers.logs(self.look(name).id)]

    def runs(self, name: str, number: int) -> int:
        """Wait for this run of SERVER; its process."""
        eventually(lambda: b"run %d" % number in self.log(name), f"run {number} of {name}")
        return eventually(lambda: self.look(name).pid, f"{name} is said to run")

    def rests(self, name: str) -> ContainerStatus:
        """Wait until it has ended, and is not about to run again."""

        def ended() -> bool:
            now = self.look(name)
            return now.state == "exited" and not now.restarting

        eventually(ended, f"{name} has ended for good")
        return self.look(name)

    def make(self, name: str, policy: str, script: str = SERVER) -> None:
        """As `oakum run -d --network none --restart POLICY`, but quicker."""
        alone = NamespaceOptions(network="node")
        container_id = self.containers.create_standalone(
            SandboxConfig(metadata=SandboxMetadata(name=name), owner="container", namespaces=alone),
            ContainerConfig(
                metadata=ContainerMetadata(name=name),
                image=self.box.image,
                command=("sh", "-c", script),
                namespaces=alone,
                restart=policy,
            ),
        )
        self.containers.start_container(container_id)

    def address(self, name: str) -> tuple[str, ...]:
        return self.containers.sandbox_status(self.look(name).sandbox_id).addresses


@pytest.fixture(scope="module")
def opened_shop(module_directories, tmp_path_factory) -> Iterator[Shop]:
    with (
        opened(module_directories, tmp_path_factory.mktemp("reg")) as box,
        Engine(box.root, box.state) as engine,
    ):
        made = Shop(box, engine.namespace())
        box("run", "--name", "warm", box.image, "true")
        made.containers.remove_container(made.look("warm").id)  # now it has open what it keeps open
        yield made


@pytest.fixture
def shop(opened_shop: Shop) -> Iterator[Shop]:
    yield opened_shop
    for status in opened_shop.containers.list_containers():
        opened_shop.containers.remove_container(status.id)


def test_on_failure_counts_keeps_what_was_written_and_gives_up(shop: Shop) -> None:
    # in the foreground it ends with the first end, as docker's client does
    script = "echo x >> /kept; echo run $(wc -l < /kept); exit 3"
    run = ("run", "--name", "job", "--restart", "on-failure:2", shop.box.image, "sh", "-c", script)
    assert shop.box(*run, code=3) == "run 1\n"
    ended = shop.rests("job")
    assert (ended.exit_code, ended.restart_count) == (3, 2)
    assert shop.log("job") == [b"run 1", b"run 2", b"run 3"]
    # by hand it begins anew
    shop.box("start", "job")
    eventually(lambda: b"run 6" in shop.log("job"), "two more")
    assert shop.rests("job").restart_count == 2
    found = shop.containers.inspect_container("job")
    assert found["restart"] == {"policy": "on-failure:2", "count": 2}


def test_always_means_until_it_is_stopped(shop: Shop) -> None:
    box = shop.box
    box("run", "-d", "--name", "web", "--restart", "always", box.image, "sh", "-c", SERVER)
    pid = shop.runs("web", 1)
    address = shop.address("web")
    os.kill(pid, signal.SIGKILL)
    shop.runs("web", 2)
    assert shop.address("web") == address
    assert box("exec", "web", "echo", "hello") == "hello\n"
    box("kill", "-s", "TERM", "web")  # its stop signal: a user's stop
    assert shop.rests("web").restart_count == 1
    box("start", "web")
    shop.runs("web", 3)
    assert shop.look("web").restart_count == 0
    box("restart", "web")
    os.kill(shop.runs("web", 4), signal.SIGKILL)
    shop.runs("web", 5)
    box("stop", "web")
    assert shop.rests("web").exit_code == 0
    assert shop.log("web") == [b"run %d" % n for n in range(1, 6)]


def test_what_waits_for_its_next_start_is_seen_and_can_be_stopped(shop: Shop) -> None:
    box = shop.box
    shop.make("loop", "unless-stopped", "exit 1")
    eventually(lambda: shop.look("loop").restart_count >= 2, "some tries")  # the pauses are longer by now
    eventually(lambda: "Restarting (1) " in box("ps", "-f", "status=restarting"), "a pause")
    for command in (("rm", "loop"), ("exec", "loop", "true")):
        eventually(lambda command=command: b"restarting" in box.full(*command).stderr, "refused in a pause")
    for away in (("rm", "--ended"), ("system", "prune", "-f")):
        box(*away)  # which takes what has ended
    box("stop", "loop")
    assert "Exited (" in box("ps", "-a")  # with 1, unless the stop found it running
    count = shop.look("loop").restart_count
    box("update", "--restart", "no", "loop")
    box("start", "loop")
    assert (count >= 2, shop.rests("loop").restart_count) == (True, 0)
    box("rm", "loop")


def test_a_policy_may_come_later_and_go_again(shop: Shop) -> None:
    shop.make("late", "no")
    pid = shop.runs("late", 1)
    shop.box("update", "--restart", "always", "late")
    os.kill(pid, signal.SIGKILL)
    pid = shop.runs("late", 2)
    shop.box("update", "--restart", "no", "late")
    os.kill(pid, signal.SIGKILL)
    assert shop.rests("late").exit_code == 137


def test_what_never_ran_is_not_tried_again(shop: Shop) -> None:
    arguments = ("--restart", "always", "--network", "none", shop.box.image, "no-such-command")
    shop.box("run", "-d", "--name", "none", *arguments, code=127)
    assert shop.rests("none").reason == "StartError"


def test_a_server_that_starts_brings_back_what_died_with_its_shim(shop: Shop) -> None:
    policies = {"always": "always", "stopped": "unless-stopped", "up": "unless-stopped", "bad": "on-failure"}
    for name, policy in policies.items():
        shop.make(name, policy)
        shop.runs(name, 1)
    for name in ("always", "stopped"):
        shop.containers.stop_container(shop.look(name).id, timeout_s=patient(10))
    for name in policies:
        os.kill(shop.containers.sandbox_status(shop.look(name).sandbox_id).shim_pid, signal.SIGKILL)
    for name in policies:
        assert shop.rests(name).exit_code == (255 if name in ("up", "bad") else 0)
    server = shop.box.start("serve")
    try:
        for name in ("always", "up"):
            shop.runs(name, 2)
    finally:
        server.terminate()
        server.communicate(timeout=patient(20))
    for name in ("stopped", "bad"):
        assert shop.look(name).state == "exited"
    os.kill(shop.look("up").pid, signal.SIGKILL)
    shop.runs("up", 3)
