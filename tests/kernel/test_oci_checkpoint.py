# SPDX-License-Identifier: Apache-2.0
"""`oakum oci checkpoint` and `restore` with Debian's CRIU, where the kernel is one that it knows; else the refusal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.oci.runtime.criu import problem
from tests.kernel.oci_cli_box import Runtime
from tests.support.patience import eventually

COUNT = "n=0; while :; do n=$((n+1)); echo $n >/count; echo $n; sleep 0.05; done"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path)
    yield made
    made.close()


@pytest.fixture
def criu(tmp_path: Path) -> None:
    """Needs a kernel that CRIU can work with."""
    why = problem("criu", str(tmp_path))
    if why:
        pytest.skip(f"kernel: CRIU cannot work with it: {why}")


class Streams:
    """Pipes for a container's standard streams: files of ours would be outside of its mounts."""

    def __init__(self) -> None:
        self.stdin, self._feed = os.pipe()
        self._output, self.stdout = os.pipe()
        os.set_blocking(self._output, False)

    def run(self, runtime: Runtime, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command whose container gets these streams."""
        with open(runtime.directory / "errors", "w+b") as errors:
            done = subprocess.run(
                runtime.argv("--log", f"{runtime.directory}/errors", *arguments),
                stdin=self.stdin,
                stdout=self.stdout,
                stderr=self.stdout,
                timeout=120,
                check=False,
            )
            said = errors.read().decode()
        assert done.returncode == 0, said
        return subprocess.CompletedProcess(done.args, 0, said)

    def lines(self) -> list[int]:
        """What has come out and was not read yet."""
        try:
            return [int(line) for line in os.read(self._output, 1 << 16).split()]
        except BlockingIOError:
            return []

    def close(self) -> None:
        for fd in (self.stdin, self._feed, self._output, self.stdout):
            os.close(fd)


@pytest.fixture
def streams() -> Iterator[Streams]:
    made = Streams()
    yield made
    made.close()


def counted(runtime: Runtime) -> int:
    try:
        return int(Path(runtime.bundle, "rootfs/count").read_text() or 0)
    except FileNotFoundError:
        return 0


def counting(runtime: Runtime, streams: Streams) -> str:
    """A container that counts, by now beyond 5."""
    runtime.write("sh", "-c", COUNT, root={"readonly": False})
    container = runtime.new_id()
    streams.run(runtime, "run", "--detach", "--bundle", runtime.bundle, container)
    eventually(lambda: counted(runtime) > 5)
    return container


@pytest.mark.cgroup
def test_a_container_goes_on_where_it_was(runtime: Runtime, streams: Streams, criu: None) -> None:
    images = f"{runtime.directory}/images"
    container = counting(runtime, streams)
    runtime("checkpoint", "--leave-running", "--image-path", f"{images}-0", container)
    assert Path(f"{images}-0", "inventory.img").exists()
    at = counted(runtime)
    eventually(lambda: counted(runtime) > at)
    assert runtime.state(container)["status"] == "running"
    runtime("checkpoint", "--image-path", images, container)
    assert "does not exist" in runtime("state", container, check=False).stderr
    at = counted(runtime)
    streams.lines()

    again = runtime.new_id()
    pid_file = f"{runtime.directory}/pid"
    streams.run(
        runtime, "restore", "-d", "--image-path", images, "-b", runtime.bundle, "--pid-file", pid_file, again
    )
    eventually(lambda: counted(runtime) > at + 3)
    # not one is lost, and none comes twice
    assert streams.lines()[:3] == [at + 1, at + 2, at + 3]
    state = runtime.state(again)
    assert (state["status"], state["pid"]) == ("running", int(Path(pid_file).read_text()))
    path = json.loads(Path(runtime.bundle, "config.json").read_text())["linux"].get(
        "cgroupsPath", f"/{again}"
    )
    with open(f"/proc/{state['pid']}/cgroup", encoding="ascii") as file:
        assert all(line.strip().endswith(path) for line in file)
    assert runtime("exec", again, "cat", "/proc/1/comm").stdout == "sh\n"
    runtime("kill", again, "KILL")
    eventually(lambda: runtime.state(again)["status"] == "stopped")
    runtime("delete", again)


def test_without_criu_the_reason_is_said_and_the_container_runs_on(
    runtime: Runtime, streams: Streams
) -> None:
    container = counting(runtime, streams)
    images = f"{runtime.directory}/images"
    refused = runtime("--criu", "/no/criu", "checkpoint", "--image-path", images, container, check=False)
    assert refused.returncode == 1
    assert "/no/criu is not installed" in refused.stderr
    at = counted(runtime)
    eventually(lambda: counted(runtime) > at)
    other = runtime.new_id()
    refused = runtime(
        "--criu", "/no/criu", "restore", "--image-path", images, "-b", runtime.bundle, other, check=False
    )
    assert "/no/criu is not installed" in refused.stderr
    assert "does not exist" in runtime("state", other, check=False).stderr


def test_a_program_that_fails_is_quoted(runtime: Runtime, streams: Streams) -> None:
    """As on kernels that CRIU does not know: its own word is the reason."""
    broken = runtime.directory / "criu"
    broken.write_text(
        '#!/bin/sh\nwhile [ "$1" != -W ]; do shift; done\n'
        'echo "(00.001) Error (criu/tun.c:85): tun: Unable to create tun: x" >"$2/$4"\n'
        'echo "(00.002) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds" >>"$2/$4"; exit 1\n'
    )
    broken.chmod(0o755)
    container = counting(runtime, streams)
    refused = runtime(
        "--criu", str(broken), "checkpoint", "--image-path", f"{runtime.directory}/i", container, check=False
    )
    assert "CRIU does not work on this host: vdso: Unexpected rt vDSO area bounds" in refused.stderr
    assert runtime.state(container)["status"] == "running"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '["a\\u0000"]',
        '["pipe:[1],--shell-job"]',
        '["a","b","c","d"]',
        "[" * 5000,
        "[]",
        '["file[1:2:/x]"]',
        '["--shell-job"]',
    ],
)
def test_a_checkpoint_whose_names_are_damaged_is_refused(runtime: Runtime, text: str) -> None:
    images = runtime.directory / "images"
    images.mkdir()
    (images / "descriptors.json").write_text(text)
    runtime.write("true")
    container = runtime.new_id()
    refused = runtime("restore", "--image-path", str(images), "-b", runtime.bundle, container, check=False)
    assert refused.returncode == 1
    assert "descriptors.json" in refused.stderr
    assert "does not exist" in runtime("state", container, check=False).stderr


def test_what_cannot_be_carried_is_named(runtime: Runtime) -> None:
    container = runtime.started("sleep", "600")
    spec = json.loads(Path(runtime.root, container, "config.json").read_text())
    for change, said in (
        ({"process": {**spec["process"], "terminal": True}}, "process.terminal"),
        ({"linux": {**spec["linux"], "namespaces": [{"type": "mount"}]}}, "pid namespace"),
        (
            {"linux": {**spec["linux"], "namespaces": [{"type": "ipc", "path": "/proc/self/ns/ipc"}]}},
            "ipc namespace",
        ),
    ):
        Path(runtime.root, container, "config.json").write_text(json.dumps({**spec, **change}))
        refused = runtime("checkpoint", "--image-path", f"{runtime.directory}/i", container, check=False)
        assert said in refused.stderr
    Path(runtime.root, container, "config.json").write_text(json.dumps(spec))
    runtime("kill", container, "KILL")
    eventually(lambda: runtime.state(container)["status"] == "stopped")
    refused = runtime("checkpoint", "--image-path", f"{runtime.directory}/i", container, check=False)
    assert "not running" in refused.stderr
