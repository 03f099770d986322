# SPDX-License-Identifier: Apache-2.0
"""The gate at which a created container waits for its start."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from oakum.errors import CommandNotRunnable, FailedPrecondition
from oakum.oci.gate import Gate, close_gate, is_waiting, open_gate


def test_who_waits_is_let_through_and_runs(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path))
    assert is_waiting(str(tmp_path))

    def init() -> None:
        gate.wait()
        gate.close()  # as execve does

    waiter = threading.Thread(target=init)
    waiter.start()
    open_gate(str(tmp_path), timeout_s=10)
    waiter.join()
    assert not is_waiting(str(tmp_path))
    with pytest.raises(FailedPrecondition):
        open_gate(str(tmp_path))


def test_what_keeps_it_from_running_reaches_the_starter(tmp_path: Path) -> None:
    gate = Gate(str(tmp_path))

    def init() -> None:
        gate.wait()
        gate.report(
            CommandNotRunnable("exec:", '"x"' * 100_000, "executable file not found in $PATH", errno=2)
        )
        gate.close()

    waiter = threading.Thread(target=init)
    waiter.start()
    with pytest.raises(CommandNotRunnable, match="not found in") as caught:
        open_gate(str(tmp_path), timeout_s=10)
    waiter.join()
    assert caught.value.exit_code == 127


def test_one_that_has_died_cannot_be_started(tmp_path: Path) -> None:
    Gate(str(tmp_path)).close()
    assert not is_waiting(str(tmp_path))
    with pytest.raises(FailedPrecondition, match="has stopped"):
        open_gate(str(tmp_path))
    close_gate(str(tmp_path))
    close_gate(str(tmp_path))
