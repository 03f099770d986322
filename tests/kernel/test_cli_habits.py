# SPDX-License-Identifier: Apache-2.0
"""What people know from docker's command line, on a real engine: what they type works, or says what does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.kernel.cli_box import Box, opened


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
    assert seen("exec", "web", "echo", "in") == "in\n"
    for change in (("rm", "done"), ("start", "done"), ("run", box.image, "true"), ("network", "create", "n")):
        refused = locked(*change)
        assert refused.returncode != 0, change
        assert "read-only: make it writable" in refused.stderr, change
    assert "done" in box("ps", "-a")
