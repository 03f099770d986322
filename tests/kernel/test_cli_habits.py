# SPDX-License-Identifier: Apache-2.0
"""What people know from docker's command line, on a real engine: what they type works, or says what does.

All tests look at one container, "web", which runs all the time; what else they make, they remove.
"""

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
def box(module_directories, tmp_path_factory) -> Iterator[Box]:
    with opened(module_directories, tmp_path_factory.mktemp("reg")) as box:
        box("network", "create", "back")
        publish = ("-p", "127.0.0.1::80", "--network", "back", "-v", "kept:/data")
        box("run", "-d", "--name", "web", *publish, box.image, "sh", "-c", "echo said; exec sleep 1000")
        try:
            eventually(lambda: box("logs", "web") == "said\n")
            yield box
        finally:
            box.clear()
            box("network", "rm", "back")


def test_on_a_read_only_disk_everything_can_be_looked_at_and_changes_say_what_is_wrong(box: Box) -> None:
    script = 'for d in "$1" "$2"; do mount --bind "$d" "$d" && mount -o remount,bind,ro "$d" || exit 99; done; shift 2; "$@"'

    def locked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "-m", "sh", "-c", script, "sh", box.root, box.state, *box.argv(*arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def seen(*arguments: str) -> str:
        done = locked(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done.stderr)
        return done.stdout

    assert seen("ps", "--format", "{{.Names}} {{.State}}") == "web running\n"
    assert seen("logs", "web") == "said\n"
    assert box.image in seen("image", "ls", "--format", "json")
    refused = locked("run", box.image, "true")
    assert refused.returncode == 125
    assert "read-only: make it writable" in refused.stderr


def test_what_cannot_be_run_so_in_a_container_ends_with_126(box: Box) -> None:
    for options, words in (
        (("-w", "/nowhere", "web", "true"), "/nowhere"),
        (("-d", "-u", ":nobody-here", "web", "true"), "nobody-here"),
    ):
        done = box.full("exec", *options)
        said = done.stderr.decode()
        assert (done.returncode, words in said, "in container web" in said) == (126, True, True), said
    assert box("exec", "-u", ":33", "web", "sh", "-c", "id -u; id -g") == "0\n33\n"


def test_templates_say_of_a_container_what_its_own_eyes_see(box: Box) -> None:
    address = box("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web").strip()
    assert f"inet {address}/" in box("exec", "web", "ip", "addr")


def test_what_a_container_changed_is_listed_and_its_links_can_be_followed(box: Box, tmp_path: Path) -> None:
    links = "mkdir /new; ln -s ../../../etc /new/all; ln -s all/passwd /new/one; ln -s one /new/two"
    box("exec", "web", "sh", "-c", f"echo last >>/etc/passwd; rm -r /www; {links}")
    # of what was made for its start, as /data, nothing is said
    assert box("diff", "web").splitlines() == [
        *("C /etc", "C /etc/passwd", "A /new", "A /new/all", "A /new/one", "A /new/two", "D /www"),
    ]
    box("cp", "-L", "web:/new/two", f"{tmp_path}/")
    assert (tmp_path / "two").read_text().endswith("last\n")
    box("cp", "-L", "web:/new/all", str(tmp_path))
    assert (tmp_path / "all/passwd").read_text().endswith("last\n")


def test_a_volume_that_shall_not_be_filled_begins_empty(box: Box) -> None:
    bare = ("-v", "bare:/etc:nocopy", "--mount", "type=volume,dst=/home,volume-nocopy")
    listed = box("run", "--rm", *bare, box.image, "ls", "/etc", "/home")
    assert "passwd" not in listed
    box("volume", "rm", "bare")


def test_whoever_has_a_port_is_named_as_people_know_it(box: Box) -> None:
    (name, port), *_ = (
        line.split() for line in box("ps", "--format", r"table {{.Names}}\t{{.Ports}}").splitlines()[1:]
    )
    assert name == "web"
    taken = port.partition("->")[0]
    done = box.full("run", "--rm", "-p", f"{taken}:80", box.image, "true")
    said = done.stderr.decode()
    assert done.returncode == 125
    assert f"container web has {taken}/tcp" in said
    assert "oakum stop web" in said


def test_a_container_in_anothers_network_has_its_addresses_and_names_and_outlives_it(box: Box) -> None:
    box("run", "-d", "--name", "front", box.image, "sleep", "1000")
    box("run", "-d", "--name", "side", "--network", "container:front", box.image, "sleep", "1000")
    look = "readlink /proc/self/ns/net; hostname; cat /etc/hosts; ip -4 addr"
    seen = box("exec", "side", "sh", "-c", look)
    assert seen == box("exec", "front", "sh", "-c", look)
    assert "eth0" in seen
    box("rm", "-f", "front")
    done = box.full("restart", "-t", "0", "side")
    assert done.returncode == 1
    assert b"whose network it shares was removed" in done.stderr
    box("rm", "side")


def test_a_container_is_found_by_its_new_name_here_and_by_its_neighbours(box: Box) -> None:
    box("run", "-d", "--name", "db", "--network", "back", box.image, "sleep", "1000")
    taken = box.full("rename", "db", "web")
    assert taken.returncode == 125
    assert b"has it" in taken.stderr
    box("rename", "db", "store")
    names = box("exec", "web", "cat", "/etc/hosts").split()
    assert "store" in names
    assert "db" not in names
    box("rm", "-f", "store")


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


def test_what_is_not_in_use_is_counted_and_removed_and_all_else_stays(box: Box) -> None:
    command = ("dd", "if=/dev/zero", "of=/big", "bs=1M", "count=2")
    box("run", "--name", "dead", "-v", "loose:/data", box.image, *command)
    before = {use["kind"]: use for use in json.loads(box("system", "df", "--format", "json"))}
    assert (before["containers"]["total"], before["containers"]["active"]) == (2, 1)
    assert before["containers"]["reclaimable_bytes"] >= 2 << 20
    assert before["images"]["reclaimable_bytes"] == 0
    assert box.full("system", "prune", stdin=b"n\n").returncode == 130
    done = json.loads(box("system", "prune", "--all", "--volumes", "--force", "--format", "json"))
    assert done["removed"] == {"container": ["dead"], "volume": ["loose"]}
    assert done["freed_bytes"] >= 2 << 20
    assert box("ps", "-a", "--format", "{{.Names}}").split() == ["web"]
