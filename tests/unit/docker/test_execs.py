# SPDX-License-Identifier: Apache-2.0
"""Execs against an engine that does not answer: what is said of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from oakum.backend.config import ContainerConfig, ContainerMetadata
from oakum.backend.status import ContainerStatus
from oakum.docker import execs
from oakum.docker.client import DockerClient
from oakum.engine.lookup import Lookup
from oakum.errors import DeadlineExceeded
from tests.unit.docker.simulated_engine import Request, SimulatedEngine, answer


class _Running:
    def container(self, container_id: str) -> ContainerStatus:
        return ContainerStatus(
            id=container_id,
            sandbox_id="pod",
            config=ContainerConfig(metadata=ContainerMetadata(name="c"), image="x"),
            state="running",
            created_at_ns=1,
            cgroup_path="/nowhere/at/all",
        )


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimulatedEngine]:
    with SimulatedEngine(str(tmp_path / "s")) as running:
        yield running


def test_an_engine_that_hangs_is_not_called_a_command_that_took_too_long(
    engine: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs, "_LATE_S", 0.01)
    monkeypatch.setattr(execs, "_BEGIN_S", 0.2)
    over = threading.Event()

    def start(request: Request, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        over.wait(60)
        return False

    def hang(request: Request, sock: socket.socket) -> bool:
        over.wait(60)
        return False

    engine.on["POST /containers/c/exec"] = lambda request, sock: answer(sock, 201, {"Id": "e"}) or True
    engine.on["POST /exec/e/start"] = start
    engine.on["GET /exec/e/json"] = hang
    client = DockerClient(engine.host)
    try:
        with pytest.raises(DeadlineExceeded, match="no answer in time") as caught:
            execs.Execs(client, cast("Lookup", cast("Any", _Running()))).run(
                "c", ["sleep", "9"], timeout_s=600
            )
        assert "it ran for" not in str(caught.value)
    finally:
        over.set()
        client.close()
