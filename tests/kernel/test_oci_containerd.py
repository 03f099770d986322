# SPDX-License-Identifier: Apache-2.0
"""Debian's containerd with `oakum oci` in runc's place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.oci_cli_box import IMAGE, image_archive, runtime_binary
from tests.support.containerd_peer import ContainerdPeer


class Ctr:
    """`ctr` on a containerd that has the image."""

    def __init__(self, peer: ContainerdPeer, binary: str) -> None:
        self.peer, self.binary = peer, binary

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["ctr", "--address", self.peer.socket, "--namespace", "k8s.io", *arguments]
        return subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--runc-binary", self.binary, *arguments)


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    directory = tmp_path_factory.mktemp("ctd")
    binary = runtime_binary(directory)
    with ContainerdPeer(str(directory), pause_image="127.0.0.1:1/none:1") as peer:
        peer.ctr("images", "import", str(image_archive(directory / "image.tar")))
        yield Ctr(peer, binary)


def test_run(ctr: Ctr) -> None:
    done = ctr.run("--rm", IMAGE, "t1", "sh", "-c", "echo hello; exit 4")
    assert (done.returncode, done.stdout) == (4, "hello\n")


def test_the_default_filter(ctr: Ctr) -> None:
    done = ctr.run("--rm", "--seccomp", IMAGE, "t2", "grep", "Seccomp:", "/proc/self/status")
    assert done.stdout.split() == ["Seccomp:", "2"], done.stderr


def test_what_is_not_there(ctr: Ctr) -> None:
    done = ctr.run("--rm", IMAGE, "t3", "nosuch")
    assert done.returncode == 1
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stderr


def test_the_life_of_a_task(ctr: Ctr) -> None:
    assert ctr.run("--detach", "--null-io", IMAGE, "t4", "sleep", "600").returncode == 0
    try:
        done = ctr("task", "exec", "--exec-id", "e1", "t4", "sh", "-c", "echo in; exit 5")
        assert (done.returncode, done.stdout) == (5, "in\n"), done.stderr
        missing = ctr("task", "exec", "--exec-id", "e2", "t4", "nosuch")
        assert "executable file not found in $PATH" in missing.stderr
        assert ctr("task", "pause", "t4").returncode == 0
        assert "PAUSED" in ctr("task", "ls").stdout
        assert ctr("task", "resume", "t4").returncode == 0
        assert "pids.current" in ctr("task", "metrics", "t4").stdout
    finally:
        assert ctr("task", "kill", "--signal", "KILL", "t4").returncode == 0
        ctr("task", "rm", "--force", "t4")
        assert ctr("container", "rm", "t4").returncode == 0
    assert not os.path.exists("/run/containerd/runc/k8s.io/t4")


def test_nothing_is_left_in_the_state_directory(ctr: Ctr) -> None:
    ctr.run("--rm", IMAGE, "t5", "true")
    state = Path("/run/containerd/runc/k8s.io")
    assert not (state / "t5").exists()
