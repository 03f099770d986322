# SPDX-License-Identifier: Apache-2.0
"""Debian's dockerd with `oakum oci` as a runtime beside runc."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.oci_cli_box import IMAGE, image_archive, runtime_binary
from tests.support.docker_peer import DockerPeer

LIMIT = 64 << 20


class Docker:
    """`docker` on a daemon that has the image."""

    def __init__(self, peer: DockerPeer) -> None:
        self.peer = peer

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.peer.argv(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--runtime", "oakum", *arguments)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    directory = tmp_path_factory.mktemp("dk")
    with DockerPeer(str(directory), runtimes={"oakum": runtime_binary(directory)}) as peer:
        peer.docker("load", "--input", str(image_archive(directory / "image.tar")))
        # the first use of the host's network makes dockerd keep a mount of it for its whole life
        peer.docker("run", "--rm", "--net", "host", IMAGE, "true")
        yield Docker(peer)


@pytest.fixture
def sleeper(docker: Docker) -> Iterator[str]:
    done = docker.run("-d", IMAGE, "sleep", "600")
    assert done.returncode == 0, done.stderr
    yield done.stdout.strip()
    docker("rm", "--force", done.stdout.strip())


def test_run(docker: Docker) -> None:
    done = docker.run("--rm", IMAGE, "sh", "-c", "echo hello; grep Seccomp: /proc/self/status; exit 4")
    assert (done.returncode, done.stdout.split()) == (4, ["hello", "Seccomp:", "2"]), done.stderr


def test_options(docker: Docker, tmp_path: Path) -> None:
    options = (
        "--read-only",
        "--tmpfs",
        "/x",
        "-v",
        f"{tmp_path}:/o:ro",
        "-m",
        "32m",
        "--ulimit",
        "nofile=100",
    )
    more = ("--cap-drop", "ALL", "--user", "33:44", "--init")
    script = "id -u; id -g; ulimit -n; touch /x/y && echo tmpfs; touch /root; grep CapEff /proc/self/status; grep -c ' /o [^ ]* ro,' /proc/mounts"
    done = docker.run("--rm", *options, *more, IMAGE, "sh", "-c", script)
    assert done.stdout.split() == ["33", "44", "100", "tmpfs", "CapEff:", "0" * 16, "1"], done.stderr
    assert "/root: Read-only file system" in done.stderr


def test_what_is_not_there_or_may_not_run(docker: Docker) -> None:
    assert docker.run("--rm", IMAGE, "nosuch").returncode == 127
    assert docker.run("--rm", IMAGE, "/etc/passwd").returncode == 126


def test_a_terminal(docker: Docker) -> None:
    assert docker.run("--rm", "--tty", IMAGE, "tty").stdout.strip() == "/dev/pts/0"


def test_namespaces_of_the_host_and_privileged(docker: Docker) -> None:
    done = docker.run("--rm", "--net", "host", "--pid", "host", "--ipc", "host", IMAGE, "echo", "ok")
    assert done.stdout == "ok\n", done.stderr
    assert docker.run("--rm", "--privileged", IMAGE, "ls", "/dev/kmsg").returncode == 0


def test_out_of_memory(docker: Docker) -> None:
    assert docker.run("--rm", "-m", "20m", IMAGE, "sh", "-c", "exec tail /dev/zero").returncode == 137


def test_exec(docker: Docker, sleeper: str) -> None:
    done = docker(
        "exec", "-u", "33", "-w", "/tmp", "-e", "A=b", sleeper, "sh", "-c", "id -u; pwd; echo $A; exit 5"
    )
    assert (done.returncode, done.stdout.split()) == (5, ["33", "/tmp", "b"]), done.stderr
    assert docker("exec", "--tty", sleeper, "tty").stdout.startswith("/dev/pts/")
    assert "executable file not found in $PATH" in docker("exec", sleeper, "nosuch").stdout


def test_pause_stats_update_top_and_cp(docker: Docker, sleeper: str, tmp_path: Path) -> None:
    assert docker("pause", sleeper).returncode == 0
    assert docker("inspect", "-f", "{{.State.Status}}", sleeper).stdout.strip() == "paused"
    assert docker("unpause", sleeper).returncode == 0
    done = docker(
        "update", "--memory", str(LIMIT), "--memory-swap", str(LIMIT), "--pids-limit", "50", sleeper
    )
    assert done.returncode == 0, done.stderr
    assert "64MiB" in docker("stats", "--no-stream", "--format", "{{.MemUsage}}", sleeper).stdout
    assert "sleep 600" in docker("top", sleeper).stdout
    docker("exec", sleeper, "sh", "-c", "echo data > /tmp/f")
    assert docker("cp", f"{sleeper}:/tmp/f", str(tmp_path / "f")).returncode == 0
    assert (tmp_path / "f").read_text() == "data\n"


def test_stop_and_start_again(docker: Docker, sleeper: str) -> None:
    assert docker("stop", "--time", "1", sleeper).returncode == 0
    assert docker("inspect", "-f", "{{.State.ExitCode}}", sleeper).stdout.strip() == "137"
    assert docker("start", sleeper).returncode == 0
