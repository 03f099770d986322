# SPDX-License-Identifier: Apache-2.0
"""Pods outlive their server: killed at any moment, started again, two side by side."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oakum.api.cri._proto import cri_pb2 as pb
from tests.conftest import Directories, make_directories
from tests.contract.test_cri_pod_life import read_log
from tests.support.cri import CriClient, container_config, pod_config
from tests.support.patience import eventually
from tests.support.server import OakumServer

TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"


@pytest.fixture
def server(directories: Directories, tmp_path: Path, backend: list[str]) -> Iterator[OakumServer]:
    with OakumServer(*directories, str(tmp_path / "s"), *backend) as running:
        yield running


def kill(server: OakumServer) -> None:
    assert server.daemon is not None
    server.daemon.kill()


def clear(client: CriClient) -> None:
    for pod in client.pods():
        client.stop_pod(pod.id)
        client.remove_pod(pod.id)


def pid_of(client: CriClient, container: str) -> int:
    return int(json.loads(client.status(container, verbose=True).info["info"])["pid"])


def test_a_killed_server_loses_nothing(
    server: OakumServer, busybox: str, tmp_path: Path, backend: list[str]
) -> None:
    with server.client() as client:
        client.pull(busybox)
        pod = client.run_pod(pod_config("p", str(tmp_path)))
        before = client.pod_status(pod).status
        ticks = client.create(pod, container_config("ticks", busybox, "sh", "-c", TICK))
        brief = client.create(pod, container_config("brief", busybox, "sh", "-c", "sleep 0.7; exit 23"))
        ready = client.create(pod, container_config("ready", busybox, "sleep", "600"))
        client.start(ticks)
        client.start(brief)
        pid, ends = pid_of(client, ticks), pid_of(client, brief)
        kill(server)
    # nobody serves: brief ends now, ticks goes on writing
    eventually(lambda: not Path(f"/proc/{ends}").exists(), "it ends")
    # what a container of Docker says while nobody serves lies with Docker until somebody does
    eventually(lambda: len(read_log(tmp_path / "ticks.log")) > (0 if backend else 15), "it goes on writing")
    seen = len(read_log(tmp_path / "ticks.log"))
    assert Path(f"/proc/{pid}").exists()
    served_again_ns = time.time_ns()
    server.start()
    with server.client() as client:
        after = client.pod_status(pod).status
        assert (after.state, after.network.ip) == (pb.SANDBOX_READY, before.network.ip)
        assert after.created_at == before.created_at
        ended = client.status(brief).status
        assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 23, "Error")
        assert ended.started_at < ended.finished_at < served_again_ns
        assert client.status(ticks).status.state == pb.CONTAINER_RUNNING
        assert pid_of(client, ticks) == pid
        eventually(lambda: len(read_log(tmp_path / "ticks.log")) > max(seen, 20))
        numbers = [int(text.split()[1]) for _, _, text in read_log(tmp_path / "ticks.log")]
        assert numbers == list(range(1, len(numbers) + 1))
        assert client.exec(ticks, "echo", "hello").stdout == b"hello\n"
        client.start(ready)
        assert client.status(ready).status.state == pb.CONTAINER_RUNNING
        again = client.run_pod(pod_config("q", str(tmp_path)))
        assert client.pod_status(again).status.network.ip != before.network.ip
        clear(client)
        assert client.pods() == []
    assert not Path(f"/proc/{pid}").exists()


def test_a_polite_end_and_a_restart_lose_nothing_either(
    server: OakumServer, busybox: str, tmp_path: Path
) -> None:
    with server.client() as client:
        client.pull(busybox)
        pod = client.run_pod(pod_config("p", str(tmp_path)))
        container = client.create(pod, container_config("c", busybox, "sleep", "600"))
        client.start(container)
        pid = pid_of(client, container)
    assert server.daemon is not None
    assert server.daemon.stop() == 0
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert not Path(server.socket).exists()
    server.start()
    with server.client() as client:
        assert client.status(container).status.state == pb.CONTAINER_RUNNING
        clear(client)


def test_killed_while_pods_are_being_made(
    server: OakumServer, busybox: str, tmp_path: Path, backend: list[str]
) -> None:
    """Whatever was half done is finished or gone, and every name can be used again."""
    with server.client() as client:
        client.pull(busybox)
    for round_ in range(1 if backend else 3):
        threads = [
            threading.Thread(target=_run_one, args=(server.socket, f"p{round_}-{i}", busybox))
            for i in range(6)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.04 * (round_ + 1))
        kill(server)
        for thread in threads:
            thread.join()
        server.start()
        with server.client() as client:
            for pod in client.pods():
                assert client.pod_status(pod.id).status.state in (pb.SANDBOX_READY, pb.SANDBOX_NOTREADY)
            clear(client)
            assert client.pods() == []
            assert client.containers() == []
            for i in range(6):
                client.run_pod(pod_config(f"p{round_}-{i}"))
            addresses = {client.pod_status(p.id).status.network.ip for p in client.pods()}
            assert len(addresses) == 6
            clear(client)
    assert server.shim_pids() == []


def _run_one(path: str, name: str, image: str) -> None:
    with CriClient(path) as client:
        try:
            pod = client.run_pod(pod_config(name))
            client.start(client.create(pod, container_config("c", image, "sleep", "600")))
        except grpc.RpcError:
            return  # the server was killed meanwhile


def test_two_servers_side_by_side(
    server: OakumServer, busybox: str, tmp_path: Path, backend: list[str]
) -> None:
    (tmp_path / "other").mkdir()
    other = make_directories(tmp_path / "other")
    with (
        OakumServer(*other, str(tmp_path / "o"), *backend) as second,
        server.client() as a,
        second.client() as b,
    ):
        pods: list[str] = []
        for client in (a, b):
            client.pull(busybox)
            pods.append(client.run_pod(pod_config("same", str(tmp_path))))
            container = client.create(pods[-1], container_config("c", busybox, "httpd", "-f", "-p", "80"))
            client.start(container)
        first, last = (c.pod_status(p).status.network.ip for c, p in zip((a, b), pods, strict=True))
        assert first != last
        assert [p.id for p in a.pods()] == pods[:1]
        assert [p.id for p in b.pods()] == pods[1:]
        clear(a)
        assert b.pod_status(pods[1]).status.state == pb.SANDBOX_READY
        assert b.pod_status(pods[1]).status.network.ip == last
        clear(b)


def test_a_second_server_on_the_same_directories_is_refused(server: OakumServer, tmp_path: Path) -> None:
    second = OakumServer(server.root, server.state, str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    with pytest.raises(RuntimeError, match=f"process {server.pid} serves this state directory already"):
        second.start()


def test_a_pull_that_its_client_gave_up_lets_go_of_the_line(server: OakumServer, backend: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole, server.client() as client:
        name = f"127.0.0.1:{hole.getsockname()[1]}/never:answers"
        call = client.images.PullImage.future(pb.PullImageRequest(image=pb.ImageSpec(image=name)))
        hole.settimeout(60)
        line, _ = hole.accept()
        with line:
            line.settimeout(60)
            call.cancel()
            # dockerd, told that nobody wants it any more, still waits ten seconds for the registry's handshake
            while not backend and line.recv(65536):
                pass
    assert server.daemon is not None
    assert server.daemon.stop() == 0
    log = Path(server.log_path).read_text()
    assert "code=CANCELLED" in log
    assert "ended calls_left=0" in log


def pss_kb(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))


def test_the_server_is_small_and_stays_so(server: OakumServer, busybox: str, backend: list[str]) -> None:
    with server.client() as client:
        for _ in range(5):
            client.pods()
        assert pss_kb(server.pid) < (60_000 if backend else 45_000)
        client.pull(busybox)
        first = pss_kb(server.pid)
        for _ in range(30):
            client.pull(busybox)
        assert pss_kb(server.pid) - first < 20_000
