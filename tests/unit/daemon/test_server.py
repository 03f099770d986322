# SPDX-License-Identifier: Apache-2.0
"""A server from its start to its end, as a process of its own: readiness, signals, draining."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from tests.support.cri import CriClient, failure
from tests.support.patience import eventually, patient

REPOSITORY = Path(__file__).resolve().parents[3]


class Server:
    """The process, its socket, and what it tells systemd."""

    def __init__(self, directory: Path, config: str = "", watchdog_us: int = 0) -> None:
        self.state, self.socket = directory / "state", directory / "cri.sock"
        self.config = directory / "config.toml"
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"oakum-test-{os.getpid()}-{id(self)}"
        self.heard.bind(f"\0{address}")
        self.heard.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": str(watchdog_us or "")}
        command = [sys.executable, "-m", "tests.support.memory_server", self.state, self.socket]
        if config:
            self.config.write_text(config)
            command.append(self.config)
        self._errors = (directory / f"errors-{id(self)}").open("a+")
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def said(self) -> str:
        """What stands in its log."""
        self._errors.seek(0)
        return self._errors.read()

    def hear(self) -> str:
        return self.heard.recv(1000).decode()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out, self.said()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.heard.close()
        self._errors.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(**options: object) -> Server:
        servers.append(Server(tmp_path, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def started_exec(server: Server, client: CriClient, seconds: str) -> tuple[threading.Thread, list[object]]:
    client.pull("busybox")
    pod = client.run_pod(pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="p")))
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"))
    made = client.create(pod, config)
    results: list[object] = []

    def run() -> None:
        try:
            results.append(client.exec(made, "sleep", seconds).exit_code)
        except grpc.RpcError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually((server.state / "execs").exists, "the command runs")
    return thread, results


def test_it_is_ready_when_it_says_so_and_ends_cleanly(start: Callable[..., Server]) -> None:
    server = start()
    assert server.hear() == f"READY=1\nSTATUS=CRI on {server.socket}"
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o660
    with CriClient(str(server.socket)) as client:
        assert client.runtime.Version(pb.VersionRequest(), timeout=60).runtime_name == "oakum"
    code, out, err = server.end()
    assert code == 0, err
    assert out == "left 0\n"
    assert server.hear().startswith("STOPPING=1")
    assert not server.socket.exists()
    assert " serving " in err
    assert " stopping signal=SIGTERM" in err
    assert "experiment" not in err  # what we ask gRPC for is known to it
    assert (server.state / "zygotes").read_text() == "held\n"


def test_calls_in_flight_are_finished(start: Callable[..., Server]) -> None:
    server = start()
    server.hear()
    with CriClient(str(server.socket)) as client:
        thread, results = started_exec(server, client, "1.5")
        code, out, _ = server.end()
        thread.join(60)
    assert (code, out) == (0, "left 0\n")
    assert results == [3]


def test_the_second_signal_cuts_waiting_short(start: Callable[..., Server]) -> None:
    server = start(config="drain_s = 600\n")
    server.hear()
    with CriClient(str(server.socket)) as client:
        thread, results = started_exec(server, client, "200")
        server.process.send_signal(signal.SIGINT)
        assert server.hear().startswith("STOPPING=1")
        began = time.monotonic()
        code, out, _ = server.end(signal.SIGINT)
        assert time.monotonic() - began < patient(5)
        thread.join(60)
    assert (code, out) == (0, "left 1\n")
    assert isinstance(results[0], grpc.RpcError)


def test_a_killed_server_is_followed_by_another_on_the_same_socket(start: Callable[..., Server]) -> None:
    first = start()
    first.hear()
    first.process.kill()
    first.process.communicate()
    assert first.socket.exists()
    second = start()
    second.hear()
    with CriClient(str(second.socket)) as client:
        client.runtime.Version(pb.VersionRequest(), timeout=60)


def test_a_second_server_does_not_take_the_socket(start: Callable[..., Server], tmp_path: Path) -> None:
    first = start()
    first.hear()
    second = start()
    second.process.communicate(timeout=60)
    assert second.process.returncode == 1
    assert f"process {first.process.pid} serves this state directory already" in second.said()
    third = subprocess.run(
        [sys.executable, "-m", "tests.support.memory_server", tmp_path / "else", first.socket],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert third.returncode == 1
    assert "another server listens there" in third.stderr
    with CriClient(str(first.socket)) as client:
        client.runtime.Version(pb.VersionRequest(), timeout=60)


def test_hangup_reads_the_log_level_again(start: Callable[..., Server]) -> None:
    server = start(config="[log]\nlevel = 'info'\nformat = 'json'\n")
    server.hear()
    with CriClient(str(server.socket)) as client:
        failure(lambda: client.status("quiet"))
        server.config.write_text("[log]\nlevel = 'nonsense'\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "nonsense" in server.said())
        server.config.write_text("[log]\nlevel = 'debug'\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: '"reloaded"' in server.said())
        failure(lambda: client.status("loud"))
    _, _, err = server.end()
    lines = [line for line in err.splitlines() if line.startswith("{")]
    assert not any("quiet" in line for line in lines)
    assert any("configuration stays as it was" in line and "nonsense" in line for line in lines)
    assert any('"event": "reloaded"' in line and '"log_level": "debug"' in line for line in lines)
    assert any("loud" in line and '"rpc": "ContainerStatus"' in line for line in lines)


def test_signs_of_life(start: Callable[..., Server]) -> None:
    server = start(watchdog_us=400_000)
    assert server.hear().startswith("READY=1")
    assert [server.hear() for _ in range(3)] == ["WATCHDOG=1"] * 3


def test_an_idle_server_is_small(start: Callable[..., Server]) -> None:
    server = start()
    server.hear()
    with CriClient(str(server.socket)) as client:
        for _ in range(20):
            client.pods()
    time.sleep(0.5)
    rollup = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    pss_kb = int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
    assert pss_kb < 45_000
