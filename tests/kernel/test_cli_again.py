# SPDX-License-Identifier: Apache-2.0
"""What stays when a container has ended: it can be started again, and volumes outlive it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.kernel.cli_box import Box
from tests.support.patience import eventually


@pytest.fixture(autouse=True)
def no_volumes_left(box: Box) -> Iterator[None]:
    yield
    box.clear()
    box("volume", "prune", "-f")


def test_start_and_restart_bring_back_what_has_ended(box: Box) -> None:
    script = "trap 'exit 7' TERM; echo x >> /kept; echo run $(wc -l < /kept); while :; do sleep 0.1; done"
    box("run", "-d", "--name", "web", box.image, "sh", "-c", script)
    eventually(lambda: "run 1" in box("logs", "web"), "run 1")
    box("stop", "web")
    assert "Exited (7)" in box("ps", "-a")
    assert box("start", "web") == "web\n"
    assert box("start", "web") == "web\n"  # it runs already
    eventually(lambda: "run 2" in box("logs", "web"), "run 2")
    box("restart", "web")
    eventually(lambda: "run 3" in box("logs", "web"), "run 3")
    assert "Up" in box("ps")


def test_a_job_may_be_run_again_in_the_foreground(box: Box) -> None:
    box("run", "--name", "job", box.image, "sh", "-c", "echo again >> /log; cat /log; exit 4", code=4)
    assert box("start", "-a", "job", code=4) == "again\nagain\n"


def test_what_is_to_be_removed_outlives_a_restart_and_no_later_end(box: Box) -> None:
    for index in range(2):  # what waits for its end must not take this one for it
        name = f"r{index}"
        box("run", "-d", "--rm", "--name", name, box.image, "sleep", "1000")
        box("restart", "-t", "0", name)
        assert box("exec", name, "echo", "there") == "there\n"
    box("create", "--rm", "--name", "made", box.image, "true")
    box("start", "made")
    box("create", "--rm", "--name", "watched", box.image, "true")
    box("start", "-a", "watched")
    eventually(lambda: len(box.containers()) == 2, "made and watched are gone")
    assert box("exec", "r0", "echo", "still there") == "still there\n"
    box("stop", "-t", "0", "r0", "r1")
    eventually(lambda: box.containers() == [], "all are gone")


def test_a_port_of_what_has_ended_is_free_for_others(box: Box) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        publish = ("-p", f"127.0.0.1:{probe.getsockname()[1]}:80")
    box("run", "-d", "--name", "old", *publish, box.image, "sleep", "1000")
    assert b"has 127.0.0.1" in box.full("run", "-d", "--name", "new", *publish, box.image, "true").stderr
    box("stop", "-t", "0", "old")
    box("run", "-d", "--name", "new", *publish, box.image, "httpd", "-f", "-p", "80")
    assert b"has 127.0.0.1" in box.full("start", "old").stderr
    assert "Exited" in box("ps", "-a", "--name", "old")
    box("stop", "-t", "0", "new")
    assert box("start", "old") == "old\n"
    assert "0.0.1" in box("port", "old")
    assert "Exited" in box("ps", "-a", "--name", "new")


def test_a_volume_outlives_its_containers(box: Box) -> None:
    box("run", "--rm", "-v", "db:/data", box.image, "sh", "-c", "echo kept > /data/file")
    box("run", "-d", "--name", "reader", "-v", "db:/data:ro", box.image, "sleep", "1000")
    assert box("exec", "reader", "cat", "/data/file") == "kept\n"
    box("exec", "reader", "touch", "/data/other", code=1)
    (found,) = json.loads(box("volume", "inspect", "db"))
    assert len(found["used_by"]) == 1
    box("volume", "rm", "db", code=1)
    box("rm", "-f", "reader")
    assert box("volume", "rm", "db") == "db\n"
    assert box("volume", "ls", "-q") == ""


def test_an_empty_volume_begins_with_what_the_image_has(box: Box) -> None:
    box("volume", "create", "--label", "for=tests", "tools")
    inside = box("run", "--rm", "-v", "tools:/bin:ro", box.image, "/bin/sh", "-c", "echo the shell is there")
    assert inside == "the shell is there\n"
    assert json.loads(box("volume", "inspect", "tools"))[0]["labels"] == {"for": "tests"}


def test_a_volume_without_a_name_goes_with_its_container(box: Box) -> None:
    box("run", "--rm", "-v", "/scratch", box.image, "sh", "-c", "grep -q ' /scratch ' /proc/mounts")
    assert box("volume", "ls", "-q") == ""


def test_what_fingers_know_from_docker(box: Box) -> None:
    box(
        "run",
        "-d",
        "--name",
        "web",
        "--net",
        "none",
        "--label",
        "app=a",
        box.image,
        "sh",
        "-c",
        "seq 5; sleep 1000",
    )
    box("create", "--name", "job", "--label", "app=b", box.image, "true")
    eventually(lambda: box("logs", "-n", "1", "web") == "5\n", "5")
    assert box("logs", "--until", "1h", "web") == ""
    assert box("logs", "--until", "2099-01-01", "web") == "1\n2\n3\n4\n5\n"
    (web,) = box("ps", "-q").split()
    (job,) = box("ps", "-q", "-n", "1").split()
    assert box("ps", "-aqf", "name=we", "-f", "label=app").split() == [web]
    assert box("ps", "-qf", "status=created", "-f", "status=exited").split() == [job]
    assert box("ps", "-aqf", f"ancestor={box.image}").split() == [job, web]
    assert b"unknown filter" in box.full("ps", "-f", "colour=red").stderr
    assert "cli/busybox" in box("images")
    box("tag", box.image, "again:1")
    box("rmi", "again:1")
    assert box("rm", "-fv", "web", "job").split() == ["web", "job"]
