# SPDX-License-Identifier: Apache-2.0
"""What systemd hears."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakum.daemon.notify import ServiceManager


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # socket addresses are short
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("n")
        sock.settimeout(60)
        yield sock


def test_ready_status_life_and_end(heard: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": "n",
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    manager = ServiceManager.from_environment(environment)
    assert environment == {"HOME": "/"}
    assert manager.watchdog_s == 3
    manager.ready("serving")
    assert heard.recv(100) == b"READY=1\nSTATUS=serving"
    manager.status("busy")
    assert heard.recv(100) == b"STATUS=busy"
    manager.alive()
    assert heard.recv(100) == b"WATCHDOG=1"
    manager.stopping()
    assert heard.recv(100).startswith(b"STOPPING=1\n")


def test_an_abstract_address() -> None:
    name = f"oakum-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(60)
        ServiceManager(f"@{name}").alive()
        assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("given", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}])
def test_nobody_wants_signs_of_life(given: dict[str, str]) -> None:
    assert ServiceManager.from_environment(dict(given)).watchdog_s == 0


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager(str(tmp_path / "gone")).ready("x")
    assert "cannot notify" in caplog.text
    ServiceManager().ready("nobody listens")
