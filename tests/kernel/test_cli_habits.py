# SPDX-License-Identifier: Apache-2.0
"""What people know from docker's command line, on a real engine: what they type works, or says what does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.cli_box import Box, opened
from tests.support.images import busybox_layer
from tests.support.patience import eventually
from tests.support.registry import Registry


@pytest.fixture(scope="module")
def shop(module_directories, tmp_path_factory) -> Iterator[Box]:
    with opened(module_directories, tmp_path_factory.mktemp("reg")) as box:
        yield box


@pytest.fixture
def box(shop: Box) -> Iterator[Box]:
    yield shop
    shop.clear()


# a disk that can only be read


def test_on_a_read_only_disk_everything_can_be_looked_at_and_changes_say_what_is_wrong(box: Box) -> None:
    box("run", "-d", "--name", "web", box.image, "sh", "-c", "echo said; exec sleep 1000")
    box("run", "--name", "done", box.image, "true")
    eventually(lambda: box("logs", "web"), "it has said it")
    script = 'for d in "$1" "$2"; do mount --bind "$d" "$d" && mount -o remount,bind,ro "$d" || exit 99; done; shift 2; "$@"'

    def locked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "-m", "sh", "-c", script, "sh", box.root, box.state, *box.argv(*arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def seen(*arguments: str) -> str:
        done = locked(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done.stderr)
        return done.stdout

    assert {row["name"]: row["state"] for row in json.loads(seen("ps", "-a", "--format", "json"))} == {
        "web": "running",
        "done": "exited",
    }
    assert seen("logs", "web") == "said\n"
    assert box.image in seen("image", "ls", "--format", "json")
    assert "default" in seen("network", "ls")
    for change in (("start", "done"), ("run", box.image, "true"), ("network", "create", "n")):
        refused = locked(*change)
        assert refused.returncode != 0, change
        assert "read-only: make it writable" in refused.stderr, change
    assert "done" in box("ps", "-a")


# exit codes and messages


def test_a_command_that_cannot_be_run_in_a_container_ends_with_126_and_a_missing_one_with_127(
    box: Box,
) -> None:
    box("run", "-d", "--name", "web", box.image, "sleep", "1000")
    for options, code, words in (
        (("web", "nonexistent"), 127, "not found"),
        (("web", "/etc/passwd"), 126, "permission denied"),
        (("-w", "/nowhere", "web", "true"), 126, "/nowhere"),
        (("-u", "nobody-here", "web", "true"), 126, "nobody-here"),
        (("-d", "-u", ":nobody-here", "web", "true"), 126, "nobody-here"),
        (("gone", "true"), 1, "no such container"),
    ):
        done = box.full("exec", *options)
        said = done.stderr.decode()
        assert (done.returncode, words in said) == (code, True), said
        assert code == 1 or "in container web" in said
    address = box("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web").strip()
    assert f"inet {address}/" in box("exec", "web", "ip", "addr")
    assert box("exec", "-u", ":33", "web", "sh", "-c", "id -u; id -g") == "0\n33\n"
    done = box.full("run", "--rm", "-w", "/etc/passwd", box.image, "true")
    assert done.returncode == 125
    assert b"/etc/passwd: it is not a directory" in done.stderr


def test_a_volume_that_shall_not_be_filled_begins_empty(box: Box) -> None:
    assert "passwd" not in box("run", "--rm", "-v", "bare:/etc:nocopy", box.image, "ls", "/etc")
    anonymous = "type=volume,dst=/etc,volume-nocopy"
    assert "passwd" not in box("run", "--rm", "--mount", anonymous, box.image, "ls", "/etc")
    assert "passwd" in box("run", "--rm", "-v", "full:/etc", box.image, "ls", "/etc")
    box("volume", "rm", "bare", "full")


def test_whoever_has_a_port_is_named_as_people_know_it(box: Box) -> None:
    box("run", "-d", "--name", "web", "-p", "127.0.0.1::80", box.image, "sleep", "1000")
    port = box(
        "inspect", "-f", '{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "web"
    ).strip()
    assert box("ps", "--format", r"table {{.Names}}\t{{.Ports}}").split() == [
        *("NAMES", "PORTS", "web", f"127.0.0.1:{port}->80/tcp"),
    ]
    done = box.full("run", "--name", "other", "-p", f"127.0.0.1:{port}:80", box.image, "true")
    said = done.stderr.decode()
    assert done.returncode == 125
    assert f"container web has 127.0.0.1:{port}/tcp" in said
    assert "oakum stop web" in said


# networks


def test_a_container_in_anothers_network_has_its_addresses_and_names_and_outlives_it(box: Box) -> None:
    box("run", "-d", "--name", "web", box.image, "sleep", "1000")
    box("run", "-d", "--name", "side", "--network", "container:web", box.image, "sleep", "1000")
    # a link's own address is tentative for its first second or two
    look = "readlink /proc/self/ns/net; hostname; cat /etc/hosts; ip addr | sed 's/ tentative//'"
    seen = box("exec", "side", "sh", "-c", look)
    assert seen == box("exec", "web", "sh", "-c", look)
    assert "eth0" in seen
    box("restart", "-t", "0", "side")
    box("rm", "-f", "web")
    assert "eth0" in box("exec", "side", "ip", "addr")
    done = box.full("restart", "-t", "0", "side")
    assert done.returncode == 1
    assert b"whose network it shares was removed" in done.stderr


def test_a_container_is_found_by_its_new_name_here_and_by_its_neighbours(box: Box) -> None:
    box("network", "create", "back")
    for name in ("db", "web"):
        box("run", "-d", "--name", name, "--network", "back", box.image, "sleep", "1000")
    taken = box.full("rename", "db", "web")
    assert taken.returncode == 125
    assert b"has it" in taken.stderr
    box("rename", "db", "store")
    assert box("ps", "--format", "{{.Names}}").split() == ["web", "store"]
    names = box("exec", "web", "cat", "/etc/hosts").split()
    assert "store" in names
    assert "db" not in names
    box("rm", "-f", "store", "web")
    box("network", "rm", "back")


# registries


def test_a_login_opens_a_registry_until_logout(box: Box, tmp_path: Path) -> None:
    env = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "docker")}
    with Registry(tmp_path, username="jo", password="pass:word") as registry:
        registry.push_image("closed/busybox", "1", [busybox_layer()])
        image = f"{registry.address}/closed/busybox:1"
        login = ("login", "-u", "jo", "--password-stdin", registry.address)
        wrong = box.full(*login, stdin=b"guess\n", env=env)
        assert wrong.returncode == 1
        assert b"turned down the user or password" in wrong.stderr
        assert not (tmp_path / "docker").exists()
        box(*login, stdin=b"pass:word\n", env=env)
        box("pull", "-q", image, env=env)
        assert box("history", "--format", "{{.CreatedBy}}", image) == "test\n"
        box("logout", registry.address, env=env)
        refused = box.full("pull", "-q", image, env=env)
        assert refused.returncode == 1
        assert b"oakum login" in refused.stderr
    box("rmi", image)


# the space on the disk


def test_what_is_not_in_use_is_counted_and_removed_and_all_else_stays(box: Box) -> None:
    box("run", "-d", "--name", "web", "-v", "kept:/data", box.image, "sleep", "1000")
    box(
        "run",
        "--name",
        "dead",
        "-v",
        "loose:/data",
        box.image,
        "dd",
        "if=/dev/zero",
        "of=/big",
        "bs=1M",
        "count=2",
    )
    before = {use["kind"]: use for use in json.loads(box("system", "df", "--format", "json"))}
    assert (before["containers"]["total"], before["containers"]["active"]) == (2, 1)
    assert before["containers"]["reclaimable_bytes"] >= 2 << 20
    assert before["images"]["reclaimable_bytes"] == 0
    assert box.full("system", "prune", stdin=b"n\n").returncode == 130
    done = json.loads(box("system", "prune", "--all", "--volumes", "--force", "--format", "json"))
    assert done["removed"] == {"container": ["dead"], "volume": ["loose"]}
    assert done["freed_bytes"] >= 2 << 20
    assert box("ps", "-a", "--format", "{{.Names}}").split() == ["web"]
    box("rm", "-f", "web")
    box("volume", "rm", "kept")
